"""A fused decoder as the server sees it: segments in, logits out, graph replays between.

Passes are padded to a few sizes, each captured once when the model is loaded. The
host writes one pinned array and launches; nothing waits for the device. Launching a
large graph takes the host a tenth of a millisecond and more before the device sees any
of it, so a small one goes first.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.fused.decoder import Decoder
from goodspeed_runtime.decoding.fused.int8_products import quantised
from goodspeed_runtime.decoding.fused.products import MOST_TOKENS
from goodspeed_runtime.decoding.fused.schedule import Capacity, describe
from goodspeed_runtime.decoding.fused.stepping import FusedSteps, Graphs
from goodspeed_runtime.decoding.fused.weights import take_apart
from goodspeed_runtime.decoding.packed import Loaded
from goodspeed_runtime.decoding.round import Segment, check_segments
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.decoding.tiles import tiles
from goodspeed_runtime.models.dtype import Weights

logger = logging.getLogger(__name__)


def sizes_up_to(limit: int) -> list[int]:
    """Padded sizes: each at most a quarter larger than what it pads, and a multiple of 8 from 8 on."""
    sizes = [size for size in (1, 2, 4) if size <= limit]
    size = 8
    while size < limit:
        sizes.append(size)
        size += 8 * max(1, size // 32)
    return [*sizes, limit] if limit not in sizes else sizes


class FusedModel(ServedModel):
    """For models that `weights.take_apart` accepts.

    The module's weights are shared and its forward pass still works, unless they are
    rounded to int8: then its linear layers are given up.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        slots: int,
        max_context: int,
        max_tokens: int,
        max_rows: int,
        batch_invariant: bool = False,
        weights: Weights = "model",
    ) -> None:
        """Allocates the cache and buffers and captures the graphs.

        Args:
            loaded: the model, on a CUDA device and in its dtype.
            slots: how many sequences it can hold.
            max_context: most tokens of one sequence.
            max_tokens: most tokens in one pass.
            max_rows: most rows of logits in one pass.
            batch_invariant: a sequence's logits have the same bits whatever shares its passes.
            weights: of the layers, as the model has them or rounded to int8.

        Raises:
            NotFusableError: the general path has to run this model.
        """
        int8_layers = None
        if weights == "int8":
            parts, int8_layers = quantised(loaded.module, max_context)
        else:
            parts = take_apart(loaded.module, max_context)
        super().__init__(
            parts.kept,
            slots=slots,
            max_context=max_context,
            dtype=parts.embedding.dtype,
            device=parts.embedding.device,
            vocabulary_size=parts.embedding.shape[0],
        )
        self._most = max_tokens, max_rows
        self._tile = min(max_tokens, MOST_TOKENS) if batch_invariant else None
        if self._tile is not None:
            max_tokens, max_rows = self._tile, min(max_rows, self._tile)
        self._capacity = Capacity(max_tokens, max_rows, slots, max_context)
        self._decoder = Decoder(parts, self.cache, self._capacity, int8_layers)
        # Products of our own add up in one order whatever their rows, cuBLAS only for as many of them.
        free = self._tile is None or self._decoder.streamed
        self._sizes = sizes_up_to(max_tokens) if free else [max_tokens]
        self._row_sizes = sizes_up_to(max_rows) if self._tile is None else [max_rows]
        sent = self._decoder.sent
        self._staging = torch.zeros(sent.shape, dtype=sent.dtype, pin_memory=True)
        # Between a pass's launch and its beginning, what it is to do lies in the staging array alone.
        self._begun = torch.cuda.Event()
        self._views = {name: self._staging.numpy()[place] for name, place in self._capacity.sent().items()}
        self._beginnings: dict[int, torch.cuda.CUDAGraph] = {}
        self._completions: dict[int, torch.cuda.CUDAGraph] = {}
        self._heads: dict[int, torch.cuda.CUDAGraph] = {}
        graphs = self._capture()
        if self._tile is None:
            self.steps = FusedSteps(
                self._decoder,
                self.cache,
                self.forward,
                graphs,
                sizes=sizes_up_to(min(slots, max_tokens, max_rows)),
                token_sizes=self._sizes,
                row_sizes=self._row_sizes,
            )

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """See `ServedModel.forward`; the next pass overwrites the logits."""
        check_segments(segments, self.cache)
        count = sum(len(segment.tokens) for segment in segments)
        rows = sum(segment.logit_rows for segment in segments)
        if count > self._most[0] or rows > self._most[1]:
            raise ValueError(
                f"{count} tokens and {rows} rows of logits exceed the {self._most[0]} and "
                f"{self._most[1]} of one pass"
            )
        ids = np.fromiter(chain.from_iterable([s.tokens for s in segments]), np.int64, count)
        if not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary_size:
            raise ValueError(f"a token id is outside 0..{self.vocabulary_size - 1}")
        if self._tile is None:
            return self._pass(segments, ids, rows)
        parts, at = [], 0
        for tile in tiles(segments, self._tile):
            size = sum(len(segment.tokens) for segment in tile)
            wanted = sum(segment.logit_rows for segment in tile)
            # The next tile writes its logits to the same place.
            parts.append(self._pass(tile, ids[at : at + size], wanted).clone())
            at += size
        return torch.cat(parts)

    def _pass(self, segments: Sequence[Segment], ids: npt.NDArray[np.int64], rows: int) -> Tensor:
        count = ids.size
        tokens = self._sizes[bisect_left(self._sizes, count)]
        self._begun.synchronize()
        describe(segments, ids, tokens, self._views)
        self._beginnings[tokens].replay()
        self._begun.record()
        self._completions[tokens].replay()
        if rows:
            self._heads[self._row_sizes[bisect_left(self._row_sizes, rows)]].replay()
        for segment in segments:
            self.cache.wrote(segment.slot, segment.start, segment.tokens)
        return self._decoder.logits[:rows]

    def _begin(self, tokens: int) -> None:
        self._decoder.sent.copy_(self._staging, non_blocking=True)
        self._decoder.begin(tokens)

    def _capture(self) -> Graphs:
        # Captured over an empty schedule: no pairs, and no row is written.
        graphs, decoder = Graphs(self.device), self._decoder
        work: list[tuple[dict[int, torch.cuda.CUDAGraph], Callable[[int], None], int]]
        sizes = self._sizes[::-1]
        work = [(self._beginnings, self._begin, size) for size in sizes]
        work += [(self._completions, decoder.complete, size) for size in sizes]
        work += [(self._heads, decoder.head, size) for size in reversed(self._row_sizes)]
        logger.info("capturing %d graphs, some seconds", len(work))
        for captured, part, size in work:
            captured[size] = graphs.capture(partial(part, size))
        return graphs
