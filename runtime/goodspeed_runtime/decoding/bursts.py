"""Drafts several tokens of every sequence in a row without coming back to the host between them.

The token that a pass draws is fed by the next one, so neither its id nor its place has
to be known here: the host says how far each sequence may go, launches as many passes
as the longest needs, and reads all that was drawn by one copy. What the model does in a
pass, and whether it is replayed from a graph, is behind `Steps`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.kv_cache import KVCache
from goodspeed_runtime.decoding.proposing import Manner, Proposal, Rule, drawn
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling

MOST_TOKENS = 16
"""Most tokens of a sequence in one burst."""
_COLUMNS = 9
"""Slot, count, and `Manner.numbers` of a row."""


class Steps(Protocol):
    """A model that can be fed what only its device knows.

    Attributes:
        segments: int32 ``[rows, 4]`` on the device: tokens, start, slot and rows of logits wanted of each
            sequence of the next step; zeros are none.
        token_ids: int32 ``[rows]`` or longer: the tokens of a step, one a sequence.
        logits: float32 ``[rows, vocabulary]`` or longer, of the last pass or step.
        sizes: how many sequences steps are padded to, rising; the last is all.
        cache: where their keys and values go.
    """

    segments: Tensor
    token_ids: Tensor
    logits: Tensor
    sizes: Sequence[int]
    cache: KVCache

    def begin(self, segments: Sequence[Segment]) -> None:
        """A pass over what the host knows, as `ServedModel.forward`; its rows are in ``logits`` then."""

    def feed(self, rows: int) -> None:
        """A step: the first ``rows`` of ``token_ids``, as ``segments`` say; nothing waits for the device.

        Lengths of slots, and what they hold, are the caller's to book.
        """

    def capture(self, part: Callable[[], None]) -> Callable[[], None]:
        """What does the same as ``part``, sooner; may call it once. Its tensors must stay where they are."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A sequence that drafts.

    Attributes:
        segment: what is to be fed before its first token, with one row of logits.
        sampling: the request's.
        start: index of the first token of the draft, as for `propose`.
        count: tokens to draw, 1 to `MOST_TOKENS`. All but the last are fed: the slot must have room.
    """

    segment: Segment
    sampling: Sampling
    start: int
    count: int

    @property
    def position(self) -> int:
        """Index of the first token to draw."""
        return self.segment.start + len(self.segment.tokens)


class Bursts:
    """Draws for the sequences of one model. Not for several threads at once."""

    def __init__(self, steps: Steps, rule: Rule, *, columns: int) -> None:
        """Allocates what a burst needs, and captures its steps.

        Args:
            steps: of the model.
            rule: by which tokens are drawn.
            columns: how many of the logits count, from the first.
        """
        self._steps, self._rule, self._columns = steps, rule, columns
        self._support = min(rule.support_size, columns)
        rows, device = steps.sizes[-1], steps.logits.device
        self._on_cuda = device.type == "cuda"
        # One copy there: the step, then columns of a number a row.
        self._sent = torch.zeros(1 + _COLUMNS * rows, dtype=torch.int64, device=device)
        self._staging = torch.zeros(self._sent.shape, dtype=torch.int64, pin_memory=self._on_cuda)
        self._here = self._staging.numpy()[1:].reshape(_COLUMNS, rows)
        self._step = self._sent[:1]
        self._slots, self._counts, *manner = self._sent[1:].view(_COLUMNS, rows)
        self._manner = Manner.of(manner, self._step)
        # What was drawn, by whether all are greedy: q takes more room than points do.
        kinds = (True, False)
        shapes = {kind: (MOST_TOKENS, rows, rule.width(columns, greedy=kind)) for kind in kinds}
        self._drawn = {k: torch.zeros(s, dtype=torch.int32, device=device) for k, s in shapes.items()}
        self._fetched = {
            k: torch.zeros(s, dtype=torch.int32, pin_memory=self._on_cuda) for k, s in shapes.items()
        }
        self._arrived = torch.cuda.Event() if self._on_cuda else None
        self._first = {kind: self._captured(self._draw, kind) for kind in kinds}
        self._next = {kind: self._captured(self._go_on, kind) for kind in kinds}

    @torch.inference_mode()
    def draft(self, wishes: Sequence[Wish]) -> list[Proposal]:
        """Feeds and draws.

        Slots hold all tokens but the last of each draft afterwards.

        Args:
            wishes: one a sequence, at least one, at most as many as the model has slots.

        Returns:
            Of each, its tokens in order, as `propose` would have drawn them one after another.

        Raises:
            ValueError: a segment is not one that `ServedModel.forward` would take, or a count is not
                within 1 to `MOST_TOKENS`. Nothing has been written.
        """
        if not all(1 <= wish.count <= MOST_TOKENS for wish in wishes):
            raise ValueError(f"a burst draws 1 to {MOST_TOKENS} tokens of a sequence")
        # Whoever ends sooner comes later: those who go on are always the first rows.
        order = sorted(range(len(wishes)), key=lambda index: -wishes[index].count)
        wishes = [wishes[index] for index in order]
        self._steps.begin([wish.segment for wish in wishes])
        self._send(wishes)
        kind = all(wish.sampling.greedy for wish in wishes)
        length = wishes[0].count
        self._first[kind][self._padded(len(wishes))]()
        for step in range(1, length):
            going = sum(wish.count > step for wish in wishes)
            self._next[kind][self._padded(going)]()
        columns = self._fetch(kind, length)
        drafts = [Proposal.of(columns[: wish.count, row]) for row, wish in enumerate(wishes)]
        for wish, draft in zip(wishes, drafts, strict=True):
            self._steps.cache.wrote(wish.segment.slot, wish.position, draft.tokens[:-1])
        return [draft for _, draft in sorted(zip(order, drafts, strict=True), key=lambda each: each[0])]

    def _padded(self, rows: int) -> int:
        return self._steps.sizes[bisect_left(self._steps.sizes, rows)]

    def _send(self, wishes: Sequence[Wish]) -> None:
        # The copy before has arrived: every burst ends by waiting for what came after it.
        self._here[:, len(wishes) :] = 0
        self._here[:, : len(wishes)] = [
            [wish.segment.slot for wish in wishes],
            [wish.count for wish in wishes],
            *Manner.numbers(
                [wish.sampling for wish in wishes],
                [wish.position for wish in wishes],
                [wish.start for wish in wishes],
                self._support,
            ),
        ]
        self._sent.copy_(self._staging, non_blocking=True)

    def _fetch(self, kind: bool, length: int) -> npt.NDArray[np.int32]:
        fetched = self._fetched[kind][:length]
        fetched.copy_(self._drawn[kind][:length], non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
            self._arrived.synchronize()
        return fetched.numpy().copy()

    def _captured(self, part: Callable[[int, bool], None], kind: bool) -> dict[int, Callable[[], None]]:
        parts = {}
        for rows in reversed(self._steps.sizes):
            self._sent.zero_()  # no sequence, and the first token: nothing is fed
            parts[rows] = self._steps.capture(partial(part, rows, kind))
        return parts

    @torch.inference_mode()
    def _go_on(self, rows: int, kind: bool) -> None:
        """Feeds the token drawn last of each sequence that goes on, and draws another."""
        segments = self._steps.segments[: self._counts.shape[0]]
        if self._on_cuda:
            from goodspeed_runtime.decoding.fused.drawing import advance

            advance(self._step, self._slots, self._manner.positions, self._counts, segments)
        else:
            going = self._counts > self._step.add_(1)
            one = torch.ones_like(self._slots)
            numbers = (one, self._manner.positions + self._step - 1, self._slots, one)
            segments.copy_(torch.stack(numbers, dim=1) * going[:, None])
        self._steps.feed(rows)
        self._draw(rows, kind)

    @torch.inference_mode()
    def _draw(self, rows: int, kind: bool) -> None:
        """Draws from the logits of the first rows; ``kind`` is whether all of them are greedy."""
        logits, into, tokens = self._steps.logits, self._drawn[kind], self._steps.token_ids
        logits, manner = logits[:rows, : self._columns], self._manner.rows(rows)
        if self._on_cuda:
            from goodspeed_runtime.decoding.fused.drawing import draw

            draw(logits, manner, self._rule, into, tokens, greedy=kind)
            return
        # Of greedy rows there is nothing to tell but the token and its confidence.
        columns = drawn(logits, manner, self._rule)[:, : into.shape[2]]
        into[:, :rows].index_copy_(0, self._step, columns[None])
        tokens[:rows].copy_(columns[:, 0])
