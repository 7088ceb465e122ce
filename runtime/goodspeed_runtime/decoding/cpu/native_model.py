"""A decoder on the CPU whose whole pass is one call of compiled code.

The weights are the model's to the last bit and
what is between the products is in float32. Every row's sums are in one order whatever else is in the pass:
the same sequence gives the same logits, bit for bit, alone or in company, in one
chunk or several.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.cpu import library
from goodspeed_runtime.decoding.fused.weights import (
    DecoderWeights,
    LayerWeights,
    NotFusableError,
    give_up,
    take_apart,
)
from goodspeed_runtime.decoding.packed import Loaded, check_token_ids
from goodspeed_runtime.decoding.round import Segment, check_segments
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.models.integers import Integers, joined

_FORMATS = {torch.bfloat16: 0, torch.float32: 1}
_NIBBLES, _BYTES = 2, 3
_HEAD, _QUERY_KEY_VALUE, _OUTPUT, _GATE, _UP, _DOWN = range(6)


class NativeModel(ServedModel):
    """For models that `take_apart` accepts, float32 or bfloat16 on the CPU.

    The module's matrices are taken from it: it cannot be run any more.

    Attributes:
        weight_bytes: read by a pass that wants logits.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        slots: int,
        max_context: int,
        token_ids: npt.NDArray[np.int32] | None = None,
        variant: str | None = None,
    ) -> None:
        """Lays the matrices out, a layer at a time, and allocates the cache.

        Args:
            loaded: the model, on the CPU and in its dtype.
            slots: how many sequences it can hold.
            max_context: most tokens of one sequence.
            token_ids: the only ids whose logits are wanted, rising; the others' are not computed.
            variant: of `library.VARIANTS`; None is the best that the processor can run.

        Raises:
            NotFusableError: another path has to run this model. It is untouched.
            MemoryError: its matrices do not fit.
        """
        dtype = next(loaded.module.parameters()).dtype
        if dtype not in _FORMATS:
            raise NotFusableError(f"no compiled pass in {dtype}")
        try:
            self._library = library.load(variant)
        except library.NoLibraryError as error:
            raise NotFusableError(str(error)) from error
        weights = take_apart(loaded.module, max_context)
        super().__init__(
            weights.kept,
            slots=slots,
            max_context=max_context,
            dtype=dtype,
            device=torch.device("cpu"),
            vocabulary_size=weights.embedding.shape[0],
            token_ids=token_ids,
        )
        self._cosine, self._sine = weights.cosine.float().contiguous(), weights.sine.float().contiguous()
        self._embedding = weights.embedding.contiguous()
        self._create(weights, dtype)
        self.weight_bytes = 0
        stored: Mapping[str, Integers] = getattr(loaded, "integers", {})
        layers = list(weights.layers)
        for index, module in enumerate(loaded.module.model.layers):
            self._layer(index, layers.pop(0), stored)
            give_up(module)
        self._vector(0, 0, weights.norm)
        head, names = weights.head, ["lm_head.weight", "model.embed_tokens.weight"]
        integers = next((stored[name] for name in names if name in stored), None)
        if token_ids is not None:
            head = head[torch.from_numpy(token_ids)]
            integers = integers and integers.rows(token_ids)
        self._matrix(0, _HEAD, head, integers)
        self._columns = self.vocabulary_size if token_ids is None else len(token_ids)
        self._logits = torch.empty(0, self._columns)

    def _create(self, weights: DecoderWeights, dtype: torch.dtype) -> None:
        shape = library.Shape(
            layers=len(weights.layers),
            hidden=weights.hidden,
            intermediate=weights.intermediate,
            heads=weights.heads,
            kv_heads=weights.kv_heads,
            head_size=weights.head_size,
            max_context=self.cache.max_context,
            bfloat=dtype == torch.bfloat16,
            epsilon=weights.epsilon,
            scaling=weights.scaling,
            cosine=self._cosine.data_ptr(),
            sine=self._sine.data_ptr(),
            embedding=self._embedding.data_ptr(),
        )
        self._handle = self._library.goodspeed_create(ctypes.byref(shape), torch.get_num_threads())
        if not self._handle:
            raise MemoryError("no memory or no threads for the pass")
        weakref.finalize(self, self._library.goodspeed_destroy, self._handle)

    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """See `ServedModel.forward`."""
        check_token_ids(segments, self.vocabulary_size)
        check_segments(segments, self.cache)
        described = np.array(
            [(s.slot, s.start, len(s.tokens), s.logit_rows) for s in segments], dtype=np.int32
        )
        tokens = np.concatenate([np.asarray(s.tokens, dtype=np.int64) for s in segments])
        rows = int(described[:, 3].sum())
        if rows > len(self._logits):
            self._logits = torch.empty(rows, self._columns)
        failed = self._library.goodspeed_forward(
            self._handle, len(segments), described.ctypes.data, tokens.ctypes.data, self._logits.data_ptr()
        )
        if failed:
            raise MemoryError("no memory for the pass")
        for segment in segments:
            self.cache.wrote(segment.slot, segment.start, segment.tokens)
        return self._logits[:rows]

    def _layer(self, index: int, layer: LayerWeights, stored: Mapping[str, Integers]) -> None:
        gate, up = layer.gate_up.chunk(2)
        for which, matrix, names in (
            (
                _QUERY_KEY_VALUE,
                layer.query_key_value,
                ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            ),
            (_OUTPUT, layer.output, ["self_attn.o_proj"]),
            (_GATE, gate, ["mlp.gate_proj"]),
            (_UP, up, ["mlp.up_proj"]),
            (_DOWN, layer.down, ["mlp.down_proj"]),
        ):
            parts = [stored.get(f"model.layers.{index}.{name}.weight") for name in names]
            known = [part for part in parts if part is not None]
            self._matrix(index, which, matrix, joined(known) if len(known) == len(parts) else None)
        vectors = (
            layer.query_key_value_bias,
            layer.input_norm,
            layer.post_norm,
            layer.query_norm,
            layer.key_norm,
        )
        for which_vector, vector in enumerate(vectors, start=1):
            if vector is not None:
                self._vector(index, which_vector, vector)
        keys, values = self.cache.keys[index], self.cache.values[index]
        self._library.goodspeed_cache(
            self._handle, index, keys.data_ptr(), values.data_ptr(), layer.window or 0
        )

    def _matrix(self, layer: int, which: int, weight: Tensor, integers: Integers | None) -> None:
        """Stores a matrix in the fewest bytes that hold it; integers only where they are this very matrix."""
        weight = weight.contiguous()
        rows, columns = weight.shape
        kind, data, scales, minima = _FORMATS[weight.dtype], weight.data_ptr(), None, None
        self.weight_bytes += weight.nbytes
        if integers is not None and _same(integers, weight):
            values = np.ascontiguousarray(integers.values)
            halves = [np.ascontiguousarray(x) for x in (integers.scales, integers.minima) if x is not None]
            kind, data, scales = _BYTES, values.ctypes.data, halves[0].ctypes.data
            self.weight_bytes += sum(x.nbytes for x in halves) + values.nbytes - weight.nbytes
            if integers.minima is not None:
                kind, minima = _NIBBLES, halves[1].ctypes.data
                self.weight_bytes -= values.nbytes // 2
        if self._library.goodspeed_matrix(
            self._handle, layer, which, rows, columns, kind, data, scales, minima
        ):
            raise MemoryError(f"no memory for a matrix of {rows} x {columns}")

    def _vector(self, layer: int, which: int, vector: Tensor) -> None:
        wide = vector.float().contiguous()
        if self._library.goodspeed_vector(self._handle, layer, which, wide.data_ptr(), wide.numel()):
            raise MemoryError("no memory for a vector")


def _same(integers: Integers, weight: Tensor) -> bool:
    """Whether integers stand for a matrix's very weights: equal once both are rounded to bfloat16."""
    if integers.values.shape != tuple(weight.shape):
        return False
    return torch.equal(torch.from_numpy(integers.weights()).bfloat16(), weight.bfloat16())
