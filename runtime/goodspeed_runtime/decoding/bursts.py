"""Drafts several tokens of every sequence in a row without coming back to the host between them.

The token that a pass draws is fed by the next one, so neither its id nor its place has
to be known here: the host says how far each sequence may go, launches as many passes
as the longest needs, and reads all that was drawn by one copy. What the model does in a
pass, and whether it is replayed from a graph, is behind `Steps`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from goodspeed_runtime.decoding.coupling import bits
from goodspeed_runtime.decoding.kv_cache import KVCache
from goodspeed_runtime.decoding.noise import DRAFT, uniform
from goodspeed_runtime.decoding.proposing import Manner, Proposal, draw, likeliest, race, support_width
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling

MOST_TOKENS = 16
"""Most tokens of a sequence in one burst."""


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

    def __init__(
        self,
        steps: Steps,
        *,
        columns: int,
        support_size: int,
        coupled: bool = False,
        token_ids: Tensor | None = None,
    ) -> None:
        """Allocates what a burst needs, and captures its steps.

        Args:
            steps: of the model.
            columns: how many of the logits count, from the first.
            support_size: most ids in a q.
            coupled: draws as `propose_coupled` does, else as `propose`.
            token_ids: int64 ``[columns]``, as for `propose`.
        """
        self._steps = steps
        self._columns, self._token_ids, self._coupled = columns, token_ids, coupled
        self._support = min(support_size, columns)
        rows, device = steps.sizes[-1], steps.logits.device
        on_cuda = device.type == "cuda"
        # One copy there: columns of a number a row, and the noise of every token; step comes first.
        self._sent = torch.zeros(1 + (8 + MOST_TOKENS) * rows, dtype=torch.int64, device=device)
        self._staging = torch.zeros(self._sent.shape, dtype=torch.int64, pin_memory=on_cuda)
        self._there, here = _Columns.of(self._sent, rows), _Columns.of(self._staging, rows)
        self._here = {each.name: getattr(here, each.name).numpy() for each in fields(here)}
        self._one = torch.ones(rows, dtype=torch.int64, device=device)
        # What was drawn, by kind: q takes more room than points do.
        widths = {True: 2, False: 2 if coupled else 2 + 2 * self._support}
        shapes = {kind: (MOST_TOKENS, rows, width) for kind, width in widths.items()}
        self._drawn = {k: torch.zeros(s, dtype=torch.int32, device=device) for k, s in shapes.items()}
        self._fetched = {k: torch.zeros(s, dtype=torch.int32, pin_memory=on_cuda) for k, s in shapes.items()}
        self._arrived = torch.cuda.Event() if on_cuda else None
        self._first = {kind: self._captured(self._draw, kind) for kind in widths}
        self._next = {kind: self._captured(self._step, kind) for kind in widths}

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
        kind = all(wish.sampling.greedy for wish in wishes)
        length = wishes[0].count
        self._send(wishes, length, noise=not (kind or self._coupled))
        self._first[kind][self._padded(len(wishes))]()
        for step in range(1, length):
            going = sum(wish.count > step for wish in wishes)
            self._next[kind][self._padded(going)]()
        drawn = self._fetch(kind, length)
        drafts = [Proposal.of(drawn[: wish.count, row]) for row, wish in enumerate(wishes)]
        for wish, draft in zip(wishes, drafts, strict=True):
            self._steps.cache.wrote(wish.segment.slot, wish.position, draft.tokens[:-1])
        return [draft for _, draft in sorted(zip(order, drafts, strict=True), key=lambda each: each[0])]

    def _padded(self, rows: int) -> int:
        return self._steps.sizes[bisect_left(self._steps.sizes, rows)]

    def _send(self, wishes: Sequence[Wish], length: int, *, noise: bool) -> None:
        # The copy before has arrived: every burst ends by waiting for what came after it.
        self._staging.zero_()
        here, count = self._here, len(wishes)
        samplings = [wish.sampling for wish in wishes]
        seeds, positions = [s.seed for s in samplings], np.array([wish.position for wish in wishes])
        columns = {
            "slots": [wish.segment.slot for wish in wishes],
            "positions": positions,
            "counts": [wish.count for wish in wishes],
            "widths": [support_width(s, self._support) for s in samplings],
            "greedy": [s.greedy for s in samplings],
            "seeds": bits(seeds),
            "temperature": [s.temperature or 1.0 for s in samplings],
            "top_p": [s.top_p for s in samplings],
        }
        for name, column in columns.items():
            here[name][:count] = column
        if noise:
            places = positions + np.arange(length)[:, None]
            starts = np.array([wish.start for wish in wishes])
            here["noise"][:length, :count] = uniform(seeds, places, DRAFT, start=starts)
        self._sent.copy_(self._staging, non_blocking=True)

    def _fetch(self, kind: bool, length: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.int32]]:
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
            parts[rows] = self._steps.capture(lambda rows=rows: part(rows, kind))  # type: ignore[misc]
        return parts

    @torch.inference_mode()
    def _step(self, rows: int, kind: bool) -> None:
        """Feeds the token drawn last of each sequence that goes on, and draws another."""
        there, segments = self._there, self._steps.segments
        going = there.counts > there.step
        numbers = (self._one, there.positions + there.step - 1, there.slots, self._one)
        segments[: going.shape[0]].copy_(torch.stack(numbers, dim=1) * going[:, None])
        self._steps.feed(rows)
        self._draw(rows, kind)

    @torch.inference_mode()
    def _draw(self, rows: int, kind: bool) -> None:
        """Draws from the logits of the first rows; ``kind`` is whether all of them are greedy."""
        there, logits = self._there, self._steps.logits[:rows, : self._columns]
        if kind:
            columns = likeliest(logits, self._token_ids)
        else:
            greedy = there.greedy[:rows] != 0
            manner = Manner(there.temperature[:rows], there.top_p[:rows], there.widths[:rows], greedy)
            if self._coupled:
                columns = race(
                    logits,
                    manner,
                    there.seeds[:rows],
                    there.positions[:rows] + there.step,
                    support_size=self._support,
                    token_ids=self._token_ids,
                )
            else:
                noise = there.noise[:, :rows].index_select(0, there.step)[0]
                columns = draw(logits, manner, noise, support_size=self._support, token_ids=self._token_ids)
        self._drawn[kind][:, :rows].index_copy_(0, there.step, columns[None])
        self._steps.token_ids[:rows].copy_(columns[:, 0])
        there.step.add_(1)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Views of one int64 buffer.

    Attributes:
        step: int64 ``[1]``, tokens drawn of every sequence so far.
        slots, positions, counts, widths, greedy, seeds: int64 ``[rows]``; position is the first token's.
        temperature, top_p: float64 ``[rows]``.
        noise: float64 ``[MOST_TOKENS, rows]``.
    """

    step: Tensor
    slots: Tensor
    positions: Tensor
    counts: Tensor
    widths: Tensor
    greedy: Tensor
    seeds: Tensor
    temperature: Tensor
    top_p: Tensor
    noise: Tensor

    @classmethod
    def of(cls, buffer: Tensor, rows: int) -> _Columns:
        step, integers, reals, noise = buffer.split([1, 6 * rows, 2 * rows, MOST_TOKENS * rows])
        slots, positions, counts, widths, greedy, seeds = integers.view(6, rows)
        temperature, top_p = reals.view(torch.float64).view(2, rows)
        places = noise.view(torch.float64).view(MOST_TOKENS, rows)
        return cls(step, slots, positions, counts, widths, greedy, seeds, temperature, top_p, places)
