"""One pass of a fused decoder over static buffers, ready to be captured.

Every tensor a pass touches is allocated here once, so a captured graph can be
replayed for ever. What travels from the host is one small array (`schedule`); which
graph is replayed is `model`'s concern.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from goodspeed_runtime.decoding.fused import kernels, layout_kernels
from goodspeed_runtime.decoding.fused.int8_products import Int8Layer, Int8Products, partial_size
from goodspeed_runtime.decoding.fused.products import EAGER, MOST_TOKENS, PATIENT, Product, fits
from goodspeed_runtime.decoding.fused.schedule import SPLITS, TILE, Capacity
from goodspeed_runtime.decoding.fused.weights import DecoderWeights, LayerWeights
from goodspeed_runtime.decoding.kv_cache import KVCache

_PROGRAMS_EACH = 2
"""Attention programs for each multiprocessor: one loads while the other multiplies."""
_CONTEXT_BLOCK = 64
_USUAL_KEY_BYTES = 256
_FETCHED = 64
"""Positions that an attention program asks for before the pass's own keys and queries exist."""
_HEADS_BLOCK = 8
_GATE_BLOCK = 1024
_LAYOUT_BLOCK = 16
FIRST_LAYERS = 2
"""Layers of a pass's first graph: the device runs them while the host launches the rest."""


class Decoder:
    """The layers, their buffers and the columns that tell them what to do.

    Attributes:
        sent: int32, what the host writes before each pass (`Capacity.sent`).
        columns: int32, that and what is derived from it, by name.
        logits: float32 ``[capacity.rows, vocabulary]``.
    """

    def __init__(
        self,
        weights: DecoderWeights,
        cache: KVCache,
        capacity: Capacity,
        int8_layers: Sequence[Int8Layer] | None = None,
    ) -> None:
        """Allocates every buffer.

        Args:
            weights: of the model; without matrices in its layers if those are int8.
            cache: where keys and values go.
            capacity: of a pass.
            int8_layers: the layers' matrices where they are int8.
        """
        self._weights, self._cache, self._capacity = weights, cache, capacity
        device, dtype = weights.embedding.device, weights.embedding.dtype
        sent, derived = capacity.sent(), capacity.derived()
        self.sent, self._derived = (
            torch.zeros(max(s.stop for s in places.values()), dtype=torch.int32, device=device)
            for places in (sent, derived)
        )
        self.columns = {name: self.sent[place] for name, place in sent.items()}
        self.columns |= {name: self._derived[place] for name, place in derived.items()}
        self._group = triton.next_power_of_2(weights.heads // weights.kv_heads)
        # The matrix unit takes 16 rows at least.
        self._group = max(self._group, 16 // TILE)
        on_cuda = device.type == "cuda"
        self._programs = (
            torch.cuda.get_device_properties(device).multi_processor_count * _PROGRAMS_EACH if on_cuda else 4
        )
        self._precision = "ieee" if dtype == torch.float32 else "tf32"
        # Wide keys fill shared memory twice as fast.
        wide = weights.head_size * dtype.itemsize > _USUAL_KEY_BYTES
        self._block, self._stages = (_CONTEXT_BLOCK // 2, 2) if wide else (_CONTEXT_BLOCK, 3)

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
        # Launching early needs Hopper, and pays where the products do it too.
        inputs = (self._normed, self._attended, self._gated)
        self._streamed: list[_Streamed | None] = []
        self._int8: list[Int8Products] = []
        if int8_layers is None:
            self._streamed = [_Streamed.of(layer, *inputs) for layer in w.layers]
            self._early = bool(self._streamed) and self._streamed[0] is not None
        else:
            self._early = on_cuda and torch.cuda.get_device_capability(device) >= (9, 0)
            partial = buffer(partial_size(int8_layers), kind=torch.float32)
            self._int8 = [Int8Products.of(x, *inputs, partial, early=self._early) for x in int8_layers]

    @property
    def streamed(self) -> bool:
        """Whether passes of up to `MOST_TOKENS` multiply in a way that no row's sums depend on the others."""
        unbiased = all(layer.query_key_value_bias is None for layer in self._weights.layers)
        return bool(self._int8) or (all(self._streamed) and unbiased)

    def begin(self, tokens: int) -> None:
        """Feeds the scheduled tokens, padded to ``tokens``, through the first layers."""
        self._lay_out(tokens)
        embedding = self._weights.embedding
        torch.index_select(embedding, 0, self.columns["token_ids"][:tokens], out=self._residual[:tokens])
        self._layers(tokens, range(min(FIRST_LAYERS, len(self._weights.layers))))

    def complete(self, tokens: int) -> None:
        """Feeds what `begin` left through the other layers; logits come from `head`."""
        self._layers(tokens, range(FIRST_LAYERS, len(self._weights.layers)))
        self._norm(tokens, self._weights.norm, add=True)

    def _layers(self, tokens: int, indices: range) -> None:
        for index in indices:
            layer = self._weights.layers[index]
            products = self._products(index, tokens)
            self._norm(tokens, layer.input_norm, add=index > 0)
            self._project(tokens, layer, products)
            self._attend(tokens, index, layer)
            delta = self._delta[:tokens]
            if products is None:
                torch.mm(self._attended[:tokens], layer.output.t(), out=delta)
            else:
                products.output.into(delta, tokens)
            self._norm(tokens, layer.post_norm, add=True)
            if products is None:
                self._gate(tokens, layer)
                torch.mm(self._gated[:tokens], layer.down.t(), out=delta)
            else:
                products.gate_up.into(self._gated[:tokens], tokens)
                products.down.into(delta, tokens)

    def _products(self, index: int, tokens: int) -> _Streamed | Int8Products | None:
        """A layer's products for a pass of so many tokens; None is cuBLAS."""
        if self._int8:
            return self._int8[index]
        return self._streamed[index] if tokens <= MOST_TOKENS else None

    def head(self, rows: int) -> None:
        """Logits of the scheduled rows, padded to ``rows``, in float32 whatever the weights are."""
        chosen, logits = self._chosen[:rows], self.logits[:rows]
        torch.index_select(self._normed, 0, self.columns["logit_rows"][:rows], out=chosen)
        if chosen.dtype == torch.float32:
            torch.mm(chosen, self._weights.head.t(), out=logits)
        else:
            torch.mm(chosen, self._weights.head.t(), out_dtype=torch.float32, out=logits)

    def _lay_out(self, tokens: int) -> None:
        c, capacity = self.columns, self._capacity
        layout_kernels.lay_out[(triton.cdiv(tokens, _LAYOUT_BLOCK),)](
            c["segments"],
            *(self._derived[place] for place in capacity.derived().values()),
            tokens,
            capacity.tiles,
            capacity.rows,
            capacity.max_context,
            capacity.segments,
            triton.next_power_of_2(capacity.segments),
            TILE,
            capacity.chunk,
            SPLITS,
            _LAYOUT_BLOCK,
            num_warps=4,
        )

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
            self._early,
            num_warps=8,
            launch_pdl=self._early,
        )

    def _gate(self, tokens: int, layer: LayerWeights) -> None:
        width, both = self._weights.intermediate, self._both[:tokens]
        torch.mm(self._normed[:tokens], layer.gate_up.t(), out=both)
        kernels.gate[(tokens, triton.cdiv(width, _GATE_BLOCK))](
            both, self._gated, width, _GATE_BLOCK, self._early, launch_pdl=self._early
        )

    def _project(self, tokens: int, layer: LayerWeights, products: _Streamed | Int8Products | None) -> None:
        normed, projected = self._normed[:tokens], self._projected[:tokens]
        # Int8 products add the bias themselves; it is not among their layers' weights.
        bias, matrix = layer.query_key_value_bias, layer.query_key_value.t()
        if bias is not None:
            torch.addmm(bias, normed, matrix, out=projected)
        elif products is None:
            torch.mm(normed, matrix, out=projected)
        else:
            products.query_key_value.into(projected, tokens)

    def _attend(self, tokens: int, index: int, layer: LayerWeights) -> None:
        w, columns = self._weights, self.columns
        keys, values = self._cache.keys[index], self._cache.values[index]
        heads = w.heads + 2 * w.kv_heads
        kernels.rotate_and_store[(tokens, triton.cdiv(heads, _HEADS_BLOCK))](
            self._projected,
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
            self._early,
            num_warps=2,
            launch_pdl=self._early,
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
            self._block,
            layer.window is not None,
            self._precision,
            self._stages,
            _FETCHED,
            self._early,
            num_warps=4,
            launch_pdl=self._early,
        )
        kernels.combine[(tokens, w.kv_heads)](
            self._partial,
            self._partial_log,
            columns["token_pair"],
            columns["token_splits"],
            columns["token_line"],
            self._attended,
            *shape,
            self._early,
            num_warps=1,
            launch_pdl=self._early,
        )


@dataclass(frozen=True, slots=True)
class _Streamed:
    """The products of one layer for passes of a few tokens."""

    query_key_value: Product
    output: Product
    gate_up: Product
    down: Product

    @classmethod
    def of(cls, layer: LayerWeights, normed: Tensor, attended: Tensor, gated: Tensor) -> _Streamed | None:
        """Describes the matrices; None where the card or a shape does not fit."""
        if not all(map(fits, (layer.query_key_value, layer.output, layer.gate_up, layer.down))):
            return None
        return cls(
            Product(layer.query_key_value, normed, ahead=PATIENT),
            Product(layer.output, attended, ahead=PATIENT),
            Product(layer.gate_up, normed, gated=True, ahead=PATIENT),
            Product(layer.down, gated, ahead=EAGER),
        )
