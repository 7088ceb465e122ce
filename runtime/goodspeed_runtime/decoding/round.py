"""Lays out one forward pass over a ragged batch and attends within it.

Every index map and mask is built once a round, on the host, and used by all
layers. Segments with few tokens (decoding, verification) are padded to the
longest of them and attended by one call over views of their slots, as long as
these are neighbours; long ones (prefill chunks) get a call each, so that they
pad nobody. In tiles a call has one query token a row and keys up to a fixed
grain past its position, whatever else is there (`tiles`). The model around the
attention is `packed`'s concern.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from goodspeed_runtime.decoding.kv_cache import KVCache
from goodspeed_runtime.decoding.transfer import to_device

SHORT_TOKENS = 32
"""Longest segment that is padded together with others."""
_LENGTH_STEP = 32


@dataclass(slots=True)
class Segment:
    """Consecutive tokens of one sequence that a round feeds to the model.

    Attributes:
        slot: where the sequence's keys and values are.
        start: position of the first token; keys and values of ``[0, start)`` are there.
        tokens: ids, at least one.
        logit_rows: logits are wanted for that many last tokens, 0 to ``len(tokens)``.
    """

    slot: int
    start: int
    tokens: Sequence[int] | npt.NDArray[np.integer]
    logit_rows: int


@dataclass(slots=True)
class _Block:
    """One attention call: slots ``[first, first + slots)``, each with `queries` query tokens.

    With one slot and a larger `batch`, all of it reads that slot.
    """

    first: int
    slots: int
    batch: int
    queries: int
    context: int
    packed: slice
    limits: Tensor  # [batch, queries] last visible position
    gather: Tensor | None  # [batch * queries] packed index of each query; None: already in order
    scatter: Tensor | None  # [tokens] which query each packed token is


class Round:
    """The index maps of one pass, and attention by them.

    Attributes:
        token_ids, position_ids: int64 ``[1, tokens]``, padding included.
        logit_rows: int64 ``[rows]``, packed indices in the order of the segments given, then padding.
    """

    def __init__(
        self, segments: Sequence[Segment], cache: KVCache, device: torch.device, tile_rows: int | None = None
    ) -> None:
        """Lays a pass out.

        Args:
            segments: at most one per slot.
            cache: whose slots they name.
            device: of the cache.
            tile_rows: rows that the tokens, and the rows of logits if there are any, are padded to; None
                pads nothing, and lets calls be shared.
        """
        self._cache = cache
        self._biases: dict[tuple[int, int | None, int], Tensor] = {}
        check_segments(segments, cache)
        shared = 0 if tile_rows is not None else SHORT_TOKENS
        short = sorted(
            (i for i, s in enumerate(segments) if len(s.tokens) <= shared),
            key=lambda i: segments[i].slot,
        )
        order = short + [i for i, s in enumerate(segments) if len(s.tokens) > shared]
        counts = np.array([len(segments[i].tokens) for i in order])
        starts = np.array([segments[i].start for i in order])
        slots = np.array([segments[i].slot for i in order])
        first = np.cumsum(counts) - counts
        offsets = np.arange(counts.sum()) - np.repeat(first, counts)
        positions = np.repeat(starts, counts) + offsets
        rows = np.repeat(slots, counts) * cache.max_context + positions
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        ends = (first + counts)[place]
        logit_rows = np.concatenate(
            [np.arange(end - s.logit_rows, end) for end, s in zip(ends, segments, strict=True)]
        )
        ids = np.concatenate([np.asarray(segments[i].tokens) for i in order])
        self._tiled = tile_rows is not None
        self._padding = 0 if tile_rows is None else tile_rows - len(ids)
        padded = positions
        if self._padding:
            ids, padded = (np.pad(column, (0, self._padding)) for column in (ids, positions))
        if tile_rows is not None and logit_rows.size:
            logit_rows = np.pad(logit_rows, (0, tile_rows - logit_rows.size))

        columns = [ids, padded, rows, logit_rows]
        none = np.empty(0, dtype=np.int64)
        plans = []
        # A call spans neighbours only: a slot between them would be read in vain.
        for run in np.split(np.arange(len(short)), 1 + np.flatnonzero(np.diff(slots[: len(short)]) > 1)):
            if not run.size:
                continue
            span = slice(int(first[run[0]]), int(first[run[-1]] + counts[run[-1]]))
            low, queries = int(slots[run[0]]), int(counts[run].max())
            batch = run.size
            scatter = (np.repeat(slots, counts)[span] - low) * queries + offsets[span]
            # A padded query sees position 0 and nothing else: finite, and nobody reads it.
            gather, limits = np.zeros((2, batch * queries), dtype=np.int64)
            gather[scatter], limits[scatter] = np.arange(span.start, span.stop), positions[span]
            plans.append((low, batch, batch, queries, span))
            columns += [limits, gather, scatter]
        for i in range(len(short), len(order)):
            span = slice(int(first[i]), int(first[i] + counts[i]))
            if tile_rows is None:
                plans.append((int(slots[i]), 1, 1, int(counts[i]), span))
                columns += [positions[span], none, none]
                continue
            for part in np.split(
                np.arange(span.start, span.stop),
                1 + np.flatnonzero(np.diff(positions[span] // _LENGTH_STEP)),
            ):
                piece = slice(int(part[0]), int(part[-1]) + 1)
                plans.append((int(slots[i]), 1, part.size, 1, piece))
                columns += [positions[piece], none, none]

        parts = to_device([column.astype(np.int64, copy=False) for column in columns], device)
        self.token_ids, self.position_ids = parts[0][None], parts[1][None]
        self._rows, self.logit_rows = parts[2], parts[3]
        self._blocks = []
        for index, (low, width, batch, queries, span) in enumerate(plans):
            limits_t, gather_t, scatter_t = parts[4 + 3 * index : 7 + 3 * index]
            in_order = batch * queries == span.stop - span.start
            furthest = int(columns[4 + 3 * index].max()) + 1
            self._blocks.append(
                _Block(
                    first=low,
                    slots=width,
                    batch=batch,
                    queries=queries,
                    context=min(-(-furthest // _LENGTH_STEP) * _LENGTH_STEP, cache.max_context),
                    packed=span,
                    limits=limits_t.view(batch, queries),
                    gather=None if in_order else gather_t,
                    scatter=None if in_order else scatter_t,
                )
            )

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Writes the new keys and values of a layer, then attends causally within each sequence.

        Args:
            layer: index of the layer.
            query: ``[1, heads, tokens, key size]``.
            key: ``[1, kv heads, tokens, key size]``.
            value: ``[1, kv heads, tokens, value size]``.
            scaling: factor on the scores.
            window: how many last positions a token sees, itself included; None is all.
            softcap: scores become ``softcap * tanh(score / softcap)``; None is off.

        Returns:
            ``[1, tokens, heads, value size]``.
        """
        count = self._rows.shape[0]
        self._cache.write(
            layer, self._rows, key[0, :, :count].transpose(0, 1), value[0, :, :count].transpose(0, 1)
        )
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        kv_heads = key.shape[1]
        group = query.shape[1] // kv_heads
        outputs = []
        for index, block in enumerate(self._blocks):
            rows = (
                query[0, :, block.packed] if block.gather is None else query[0].index_select(1, block.gather)
            )
            slots = slice(block.first, block.first + block.slots)
            # The query heads that share a key-value head become further queries of it: no repeated keys.
            folded = (
                rows.unflatten(1, (block.batch, block.queries))
                .unflatten(0, (kv_heads, group))
                .permute(2, 0, 1, 3, 4)
                .reshape(block.batch, kv_heads, group * block.queries, -1)
            )
            contexts = [each[slots, : block.context].transpose(1, 2) for each in (keys, values)]
            if block.batch > block.slots:
                contexts = [each.expand(block.batch, -1, -1, -1) for each in contexts]
            key_context, value_context = contexts
            bias = self._bias(index, window, group, query.dtype)
            operands = folded, key_context, value_context, bias
            with _one_thread() if self._tiled and query.device.type == "cpu" else nullcontext():
                if softcap is None or not self._tiled:
                    attended = _attention(*operands, scaling, softcap)
                else:
                    # A product of matrices chooses its kernel by how many there are.
                    each = zip(*(operand.split(1) for operand in operands), strict=True)
                    attended = torch.cat([_attention(q, k, v, b, scaling, softcap) for q, k, v, b in each])
            unfolded = (
                attended.unflatten(2, (group, block.queries))
                .permute(0, 3, 1, 2, 4)
                .flatten(2, 3)
                .flatten(0, 1)
            )
            outputs.append(unfolded if block.scatter is None else unfolded.index_select(0, block.scatter))
        if self._padding:
            outputs.append(outputs[0].new_zeros(self._padding, *outputs[0].shape[1:]))
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None]

    def _bias(self, index: int, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """Additive mask ``[batch, 1, group * queries, context]`` of a block, made on first use."""
        bias = self._biases.get((index, window, group))
        if bias is None:
            block = self._blocks[index]
            places = torch.arange(block.context, device=block.limits.device)
            limits = block.limits[:, None, :, None]
            hidden = places > limits
            if window is not None:
                hidden |= places <= limits - window
            bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(
                hidden, float("-inf")
            )
            bias = self._biases[index, window, group] = bias.repeat(1, 1, group, 1)
        return bias


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads have memory of their own in attention, whose alignment decides how a thread adds up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float, softcap: float | None
) -> Tensor:
    if softcap is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scaling)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    scores = (scores / softcap).tanh() * softcap + bias
    return torch.matmul(scores.softmax(-1, dtype=torch.float32).to(query.dtype), value)


def check_segments(segments: Sequence[Segment], cache: KVCache) -> None:
    """Raises ValueError for segments that would read what is not there or write over each other."""
    if not segments:
        raise ValueError("a round needs at least one segment")
    if len({s.slot for s in segments}) != len(segments):
        raise ValueError("two segments of one round share a slot")
    for s in segments:
        count = len(s.tokens)
        if not 0 <= s.slot < cache.slots:
            raise ValueError(f"slot {s.slot} is outside 0..{cache.slots - 1}")
        if not count or not 0 <= s.logit_rows <= count:
            raise ValueError(f"slot {s.slot}: {s.logit_rows} logit rows of {count} tokens")
        if not 0 <= s.start <= cache.lengths[s.slot]:
            raise ValueError(f"slot {s.slot}: starts at {s.start}, but holds {cache.lengths[s.slot]} tokens")
        if s.start + count > cache.max_context:
            raise ValueError(
                f"slot {s.slot}: {s.start + count} tokens exceed a context of {cache.max_context}"
            )
