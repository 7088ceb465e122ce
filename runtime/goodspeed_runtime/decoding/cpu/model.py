"""A decoder on the CPU as the server sees it: segments in, logits out.

The same steps as transformers' layers, rounded at the same places, with merged and
prepacked matrices and nothing between them that is not arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import embedding, silu

from goodspeed_runtime.decoding.cpu.linear import PrepackedLinear, can_prepack
from goodspeed_runtime.decoding.fused.weights import LayerWeights, NotFusableError, give_up, take_apart
from goodspeed_runtime.decoding.packed import Loaded, check_token_ids
from goodspeed_runtime.decoding.round import Round, Segment, check_segments
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.decoding.tiles import TILE_ROWS, check_rows, tiles


@dataclass(frozen=True, slots=True)
class _Layer:
    query_key_value: PrepackedLinear
    output: PrepackedLinear
    gate_up: PrepackedLinear
    down: PrepackedLinear
    input_norm: Tensor
    post_norm: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None
    window: int | None


class CPUModel(ServedModel):
    """For models that `take_apart` accepts, on the CPU.

    The module's matrices are taken from it: it cannot be run any more.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        slots: int,
        max_context: int,
        token_ids: npt.NDArray[np.int32] | None = None,
        batch_invariant: bool = False,
    ) -> None:
        """Lays the matrices out, a layer at a time, and allocates the cache.

        Args:
            loaded: the model, on the CPU and in its dtype.
            slots: how many sequences it can hold.
            max_context: most tokens of one sequence.
            token_ids: the only ids whose logits are wanted, rising; the others' are not computed.
            batch_invariant: a sequence's logits have the same bits whatever shares its passes.

        Raises:
            NotFusableError: the general path has to run this model. It is untouched.
            ValueError: batches cannot be made not to matter here.
        """
        self._tile = TILE_ROWS if batch_invariant else None
        dtype = next(loaded.module.parameters()).dtype
        if not can_prepack(dtype):
            raise NotFusableError(f"this processor or build of torch prepacks no {dtype}")
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
        layers = list(weights.layers)
        self._weights = weights = replace(weights, layers=())
        self._layers = []
        for module in loaded.module.model.layers:
            self._layers.append(_prepacked(layers.pop(0)))
            give_up(module)
        self._head = PrepackedLinear(
            weights.head if token_ids is None else weights.head[torch.from_numpy(token_ids)]
        )
        # The angles as both halves of a head use them, the sign of the turned half within the sine.
        self._cosine = torch.cat((weights.cosine, weights.cosine), -1)
        self._sine = torch.cat((-weights.sine, weights.sine), -1)
        if batch_invariant:
            self._check_rows(dtype)

    @torch.inference_mode()
    def _check_rows(self, dtype: torch.dtype) -> None:
        layer = self._layers[0]
        for product in (layer.query_key_value, layer.output, layer.gate_up, layer.down, self._head):
            check_rows(product, product.width, dtype, self.device)
        check_rows(silu, layer.down.width, dtype, self.device)

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """See `ServedModel.forward`; the logits stay valid."""
        check_token_ids(segments, self.vocabulary_size)
        if self._tile is None:
            return self._pass(segments)
        check_segments(segments, self.cache)
        return torch.cat([self._pass(tile) for tile in tiles(segments, self._tile)])

    def _pass(self, segments: Sequence[Segment]) -> Tensor:
        layout = Round(segments, self.cache, self.device, self._tile)
        weights = self._weights
        positions = layout.position_ids[0]
        cosine, sine = self._cosine[positions][:, None], self._sine[positions][:, None]
        x = embedding(layout.token_ids[0], weights.embedding)
        for index, layer in enumerate(self._layers):
            x = x + self._attend(index, layer, self._norm(x, layer.input_norm), cosine, sine, layout)
            gate, up = layer.gate_up(self._norm(x, layer.post_norm)).chunk(2, -1)
            x = x + layer.down(silu(gate) * up)
        for segment in segments:
            self.cache.wrote(segment.slot, segment.start, segment.tokens)
        rows = sum(segment.logit_rows for segment in segments)
        return self._head(self._norm(x[layout.logit_rows], weights.norm))[:rows].float()

    def _attend(
        self, index: int, layer: _Layer, x: Tensor, cosine: Tensor, sine: Tensor, layout: Round
    ) -> Tensor:
        weights = self._weights
        heads, turned = weights.heads, weights.heads + weights.kv_heads
        states = layer.query_key_value(x).unflatten(1, (turned + weights.kv_heads, weights.head_size))
        pair = states[:, :turned]
        if layer.query_norm is not None and layer.key_norm is not None:
            pair = torch.cat(
                (self._norm(pair[:, :heads], layer.query_norm), self._norm(pair[:, heads:], layer.key_norm)),
                dim=1,
            )
        pair = pair * cosine + pair.roll(weights.head_size // 2, -1) * sine
        # [tokens, heads, size] to [1, heads, tokens, size]
        query, key, value = (
            part.transpose(0, 1)[None] for part in (pair[:, :heads], pair[:, heads:], states[:, turned:])
        )
        attended = layout.attend(
            index, query, key, value, scaling=weights.scaling, window=layer.window, softcap=None
        )
        return layer.output(attended[0].flatten(1))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._weights.epsilon)
        return weight * wide.to(x.dtype)


def _prepacked(layer: LayerWeights) -> _Layer:
    return _Layer(
        query_key_value=PrepackedLinear(layer.query_key_value, layer.query_key_value_bias),
        output=PrepackedLinear(layer.output),
        gate_up=PrepackedLinear(layer.gate_up),
        down=PrepackedLinear(layer.down),
        input_norm=layer.input_norm,
        post_norm=layer.post_norm,
        query_norm=layer.query_norm,
        key_norm=layer.key_norm,
        window=layer.window,
    )
