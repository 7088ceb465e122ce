"""One pass of a fused decoder over static buffers, ready to be captured.

Every tensor a pass touches is allocated here once, so a captured graph can be
replayed for ever. What travels from the host is one array (`schedule`); which
graph is replayed is `model`'s concern.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from goodspeed_runtime.decoding.fused import kernels
from goodspeed_runtime.decoding.fused.schedule import SPLITS, TILE, Capacity
from goodspeed_runtime.decoding.fused.weights import DecoderWeights, LayerWeights
from goodspeed_runtime.decoding.kv_cache import KVCache

_PROGRAMS_EACH = 2
"""Attention programs for each multiprocessor: one loads while the other multiplies."""
_CONTEXT_BLOCK = 32
_HEADS_BLOCK = 8
_GATE_BLOCK = 1024


class Decoder:
    """The layers, their buffers and the columns that tell them what to do.

    Attributes:
        columns: int32, device side of the schedule, by name.
        logits: float32 ``[capacity.rows, vocabulary]``.
    """

    def __init__(self, weights: DecoderWeights, cache: KVCache, capacity: Capacity) -> None:
        self._weights, self._cache, self._capacity = weights, cache, capacity
        device, dtype = weights.embedding.device, weights.embedding.dtype
        spans = capacity.spans()
        self.table = torch.zeros(max(s.stop for s in spans.values()), dtype=torch.int32, device=device)
        self.columns = {name: self.table[span] for name, span in spans.items()}
        self._group = triton.next_power_of_2(weights.heads // weights.kv_heads)
        # The matrix unit takes 16 rows at least.
        self._group = max(self._group, 16 // TILE)
        on_cuda = device.type == "cuda"
        self._programs = (
            torch.cuda.get_device_properties(device).multi_processor_count * _PROGRAMS_EACH if on_cuda else 4
        )
        self._precision = "ieee" if dtype == torch.float32 else "tf32"
        # The products of a layer in float32 fit half as many stages.
        self._stages = 2 if dtype == torch.float32 else 3

        def buffer(*shape: int, kind: torch.dtype = dtype) -> Tensor:
            return torch.zeros(*shape, dtype=kind, device=device)

        w, tokens = weights, capacity.tokens
        self._residual = buffer(tokens, w.hidden)
        self._normed = buffer(tokens, w.hidden)
        self._delta = buffer(tokens, w.hidden)
        self._projected = buffer(tokens, (w.heads + 2 * w.kv_heads) * w.head_size)
        self._query = buffer(tokens, w.heads, w.head_size)
        self._attended = buffer(tokens, w.heads * w.head_size)
        self._both = buffer(tokens, 2 * w.intermediate)
        self._gated = buffer(tokens, w.intermediate)
        lines = TILE * self._group
        self._partial = buffer(capacity.pairs, w.kv_heads, lines, w.head_size, kind=torch.float32)
        self._partial_log = buffer(capacity.pairs, w.kv_heads, lines, kind=torch.float32)
        self._chosen = buffer(capacity.rows, w.hidden)
        self.logits = buffer(capacity.rows, w.head.shape[0], kind=torch.float32)

    def run(self, tokens: int) -> None:
        """Feeds the scheduled tokens, padded to ``tokens``, through every layer; logits come from `head`."""
        w = self._weights
        torch.index_select(w.embedding, 0, self.columns["token_ids"][:tokens], out=self._residual[:tokens])
        for index, layer in enumerate(w.layers):
            self._norm(tokens, layer.input_norm, add=index > 0)
            self._attention(tokens, index, layer)
            self._norm(tokens, layer.post_norm, add=True)
            both, gated = self._both[:tokens], self._gated[:tokens]
            torch.mm(self._normed[:tokens], layer.gate_up.t(), out=both)
            kernels.gate[(tokens, triton.cdiv(w.intermediate, _GATE_BLOCK))](
                both, gated, w.intermediate, _GATE_BLOCK
            )
            torch.mm(gated, layer.down.t(), out=self._delta[:tokens])
        self._norm(tokens, w.norm, add=True)

    def head(self, rows: int) -> None:
        """Logits of the scheduled rows, padded to ``rows``, in float32 whatever the weights are."""
        chosen, logits = self._chosen[:rows], self.logits[:rows]
        torch.index_select(self._normed, 0, self.columns["logit_rows"][:rows], out=chosen)
        if chosen.dtype == torch.float32:
            torch.mm(chosen, self._weights.head.t(), out=logits)
        else:
            torch.mm(chosen, self._weights.head.t(), out_dtype=torch.float32, out=logits)

    def _norm(self, tokens: int, weight: Tensor, *, add: bool) -> None:
        hidden = self._weights.hidden
        kernels.add_norm[(tokens,)](
            self._delta,
            self._residual,
            weight,
            self._normed,
            self._weights.epsilon,
            hidden,
            triton.next_power_of_2(hidden),
            add,
            num_warps=8,
        )

    def _attention(self, tokens: int, index: int, layer: LayerWeights) -> None:
        w, columns = self._weights, self.columns
        projected = self._projected[:tokens]
        if layer.query_key_value_bias is None:
            torch.mm(self._normed[:tokens], layer.query_key_value.t(), out=projected)
        else:
            torch.addmm(
                layer.query_key_value_bias, self._normed[:tokens], layer.query_key_value.t(), out=projected
            )
        keys, values = self._cache.keys[index], self._cache.values[index]
        heads = w.heads + 2 * w.kv_heads
        kernels.rotate_and_store[(tokens, triton.cdiv(heads, _HEADS_BLOCK))](
            projected,
            columns["positions"],
            columns["rows"],
            w.cosine,
            w.sine,
            layer.query_norm if layer.query_norm is not None else w.norm,
            layer.key_norm if layer.key_norm is not None else w.norm,
            self._query,
            keys,
            values,
            w.epsilon,
            w.heads,
            w.kv_heads,
            w.head_size // 2,
            _HEADS_BLOCK,
            layer.query_norm is not None,
            num_warps=2,
        )
        shape = (w.heads, w.kv_heads, w.head_size, TILE, self._group)
        kernels.attend[(self._programs,)](
            self._query,
            keys,
            values,
            columns["tile_slot"],
            columns["tile_token"],
            columns["tile_count"],
            columns["tile_position"],
            columns["pair_tile"],
            columns["pair_split"],
            columns["pairs"],
            self._partial,
            self._partial_log,
            w.scaling * math.log2(math.e),
            layer.window or 0,
            self._capacity.max_context,
            *shape,
            self._capacity.chunk,
            _CONTEXT_BLOCK,
            layer.window is not None,
            self._precision,
            self._stages,
            num_warps=4,
        )
        kernels.combine[(tokens, w.heads)](
            self._partial,
            self._partial_log,
            columns["token_pair"],
            columns["token_splits"],
            columns["token_line"],
            self._attended,
            *shape,
            SPLITS,
            num_warps=1,
        )
        torch.mm(self._attended[:tokens], layer.output.t(), out=self._delta[:tokens])
