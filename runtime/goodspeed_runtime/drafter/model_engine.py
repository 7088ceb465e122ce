"""Drafting with a model: all sequences that hold a grant together, one token a pass.

The model keeps its own KV cache. After a verdict the cache is right up to the
last accepted token; only what differs from the committed tokens is fed again,
in the same pass that drafts the first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from goodspeed_runtime.decoding.proposing import propose
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.serving import serve
from goodspeed_runtime.drafter.engine import Job
from goodspeed_runtime.models.loading import LoadedModel
from goodspeed_runtime.protocol.wire import DraftBlock

PREFILL_CHUNK = 256
"""Most tokens of a prompt in one pass."""
JOINT_TOKENS = 32
"""Most tokens of each sequence in the pass that drafts its first token, together with others."""


@dataclass(slots=True)
class _State:
    """A sequence's slot and the tokens whose keys and values are in it, the first of them committed."""

    slot: int
    fed: list[int] = field(default_factory=list)
    committed: int = 0


class _Columns:
    """Collects the tokens and supports of one draft."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._sizes: list[int] = []
        self._ids: list[npt.NDArray[np.int32]] = []
        self._weights: list[npt.NDArray[np.int32]] = []

    def add(self, token: int, size: int, ids: npt.NDArray[np.int32], weights: npt.NDArray[np.int32]) -> None:
        self.tokens.append(token)
        self._sizes.append(size)
        self._ids.append(ids[:size])
        self._weights.append(weights[:size])

    def block(self) -> DraftBlock:
        none = np.empty(0, dtype=np.int32)
        return DraftBlock(
            np.asarray(self.tokens, dtype=np.int32),
            np.asarray(self._sizes, dtype=np.int32),
            np.concatenate([none, *self._ids]),
            np.concatenate([none, *self._weights]),
        )


class ModelEngine:
    """Draft engine of a transformers model."""

    def __init__(
        self, loaded: LoadedModel, *, slots: int, max_context: int, support_size: int, vocabulary_size: int
    ) -> None:
        """Allocates the KV cache.

        Args:
            loaded: the draft model.
            slots: sequences at once.
            max_context: tokens of one sequence; fewer when the model has fewer positions, and
                longer sequences go on without drafts.
            support_size: most ids in a q.
            vocabulary_size: ids that the verifier understands; others are never proposed.

        Raises:
            ValueError: the model does not know all of these ids, or cannot be served.
        """
        self.fingerprint = loaded.fingerprint
        positions = getattr(loaded.module.config, "max_position_embeddings", None) or max_context
        self._max_context = min(max_context, positions)
        self._model = serve(
            loaded,
            slots=slots,
            max_context=self._max_context,
            max_tokens=max(PREFILL_CHUNK, slots * JOINT_TOKENS),
            max_rows=slots,
        )
        if self._model.vocabulary_size < vocabulary_size:
            raise ValueError(
                f"the draft model knows {self._model.vocabulary_size} token ids, the target's tokenizer has "
                f"{vocabulary_size}: choose a draft model of the target's family"
            )
        self._support_size = support_size
        self._vocabulary_size = vocabulary_size
        self._states: dict[int, _State] = {}

    def draft(self, jobs: Sequence[Job]) -> list[DraftBlock]:
        """See `DraftEngine.draft`; a sequence without a slot gets an empty draft."""
        columns = [_Columns() for _ in jobs]
        going = [
            (job, column, state)
            for job, column in zip(jobs, columns, strict=True)
            if (state := self._catch_up(job)) is not None
        ]
        while going:
            segments = [self._segment(job, column, state) for job, column, state in going]
            logits = self._model.forward(segments)[:, : self._vocabulary_size]
            for segment, (_, _, state) in zip(segments, going, strict=True):
                state.fed.extend(segment.tokens)
            proposal = propose(
                logits,
                [job.sampling for job, _, _ in going],
                [len(job.tokens) + len(column.tokens) for job, column, _ in going],
                [len(job.tokens) for job, _, _ in going],
                support_size=self._support_size,
            )
            for row, (_, column, _) in enumerate(going):
                column.add(
                    int(proposal.tokens[row]),
                    int(proposal.support_sizes[row]),
                    proposal.support_ids[row],
                    proposal.support_weights[row],
                )
            going = [entry for entry in going if len(entry[1].tokens) < self._limit(entry[0])]
        return [column.block() for column in columns]

    def release(self, key: int) -> None:
        """See `DraftEngine.release`."""
        state = self._states.pop(key, None)
        if state is not None:
            self._model.release(state.slot)

    def _limit(self, job: Job) -> int:
        """The last drafted token is never fed, so a draft may end at the context's end."""
        return min(job.grant, self._max_context - len(job.tokens) + 1)

    def _catch_up(self, job: Job) -> _State | None:
        """The sequence's cache rolled back to what was committed, long prompts fed but for the last chunk."""
        if self._limit(job) < 1:
            return None
        state = self._states.get(job.key)
        if state is None:
            slot = self._model.acquire()
            if slot is None:
                return None
            state = self._states[job.key] = _State(slot)
        fed, limit = state.fed, min(len(state.fed), len(job.tokens) - 1)
        # What was committed stays; only the last draft can have been refused.
        guessed = range(min(state.committed, limit), limit)
        same = next((i for i in guessed if fed[i] != job.tokens[i]), limit)
        del fed[same:]
        state.committed = len(job.tokens)
        self._model.lengths[state.slot] = same
        while (rest := len(job.tokens) - len(fed)) > JOINT_TOKENS:
            chunk = job.tokens[len(fed) : len(fed) + min(PREFILL_CHUNK, rest - 1)]
            self._model.forward([Segment(state.slot, len(fed), chunk, 0)])
            fed.extend(chunk)
        return state

    def _segment(self, job: Job, column: _Columns, state: _State) -> Segment:
        tokens = column.tokens[-1:] if column.tokens else job.tokens[len(state.fed) :]
        return Segment(state.slot, len(state.fed), tokens, 1)
