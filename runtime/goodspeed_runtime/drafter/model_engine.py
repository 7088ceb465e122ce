"""Drafting with a model: all sequences of a call together, one token a pass.

Where the model's device can feed its own draws, a few tokens are drafted before the
host looks at any of them. Early stop is decided afterwards, token by token, as if each
had been looked at: what was drafted too far is dropped.

The model keeps its own KV cache, guesses included. After a verdict the cache is
right up to the last token that stands; where everything guessed does, drafting
goes on from there, and nothing is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from goodspeed_runtime.decoding.bursts import MOST_TOKENS, Bursts, Wish
from goodspeed_runtime.decoding.proposing import Proposal, Rule, propose, propose_coupled
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.decoding.serving import serve
from goodspeed_runtime.drafter.confidence import Calibration
from goodspeed_runtime.drafter.engine import Draft, Job
from goodspeed_runtime.drafter.hypothesis import Hypothesis
from goodspeed_runtime.models.dtype import Weights, fingerprint_with
from goodspeed_runtime.models.loading import LoadedModel

PREFILL_CHUNK = 256
"""Most tokens of a prompt in one pass."""
JOINT_TOKENS = 32
"""Most tokens of each sequence in the pass that drafts its first token, together with others."""
BURST = 4
"""Tokens drafted between two looks at whether they pay, on a device that can."""


@dataclass(slots=True)
class _State:
    """A sequence's slot, the tokens whose keys and values are in it, and what is guessed after them."""

    slot: int
    fed: list[int] = field(default_factory=list)
    committed: int = 0
    hypothesis: Hypothesis = field(default_factory=Hypothesis)


class ModelEngine:
    """Draft engine of a transformers model."""

    def __init__(
        self,
        model: ServedModel,
        fingerprint: str,
        *,
        max_context: int,
        support_size: int,
        vocabulary_size: int,
        coupled: bool = False,
    ) -> None:
        """Takes a model over.

        Args:
            model: the draft model with its cache; `load` makes one.
            fingerprint: of its weights.
            max_context: tokens of one sequence; longer ones go on without drafts.
            support_size: most ids in a q.
            vocabulary_size: ids that the verifier understands; others are never proposed.
            coupled: draws with the noise that the verifier draws with, in place of a q of its own.

        Raises:
            ValueError: the model does not know all of these ids.
        """
        self.fingerprint = fingerprint
        self._max_context = max_context
        self._model = model
        if self._model.vocabulary_size < vocabulary_size:
            raise ValueError(
                f"the draft model knows {self._model.vocabulary_size} token ids, the target's tokenizer has "
                f"{vocabulary_size}: choose a draft model of the target's family"
            )
        self._support_size = support_size
        self._columns, self._token_ids = vocabulary_size, None
        if model.token_ids is not None:
            # Rising, so ids that the verifier does not understand are the last columns.
            self._columns = int(np.searchsorted(model.token_ids, vocabulary_size))
            self._token_ids = torch.from_numpy(model.token_ids.astype(np.int64)).to(model.device)
        self._coupled = coupled
        self._bursts = None
        if model.steps is not None:
            rule = Rule(support_size, coupled, self._token_ids)
            self._bursts = Bursts(model.steps, rule, columns=self._columns)
        self._states: dict[int, _State] = {}
        self._calibration = Calibration()

    @classmethod
    def load(
        cls,
        loaded: LoadedModel,
        *,
        slots: int,
        max_context: int,
        support_size: int,
        vocabulary_size: int,
        coupled: bool = False,
        weights: Weights = "model",
    ) -> ModelEngine:
        """Allocates the KV cache of a loaded model for so many ``slots``; see `__init__` for the rest.

        With ``weights`` of "int8" the module is changed for good.
        A model with fewer positions than ``max_context`` drafts as far as they go.

        Raises:
            ValueError: the model does not know all of the vocabulary, or cannot be served.
        """
        positions = getattr(loaded.module.config, "max_position_embeddings", None) or max_context
        max_context = min(max_context, positions)
        model = serve(
            loaded,
            slots=slots,
            max_context=max_context,
            max_tokens=max(PREFILL_CHUNK, slots * JOINT_TOKENS),
            max_rows=slots,
            weights=weights,
            token_ids=loaded.proposals,
        )
        return cls(
            model,
            fingerprint_with(weights, loaded.fingerprint),
            max_context=max_context,
            support_size=support_size,
            vocabulary_size=vocabulary_size,
            coupled=coupled,
        )

    def draft(self, jobs: Sequence[Job]) -> list[Draft]:
        """See `DraftEngine.draft`; a sequence without a slot gets an empty draft."""
        states = [self._catch_up(job) for job in jobs]
        going = [
            (job, state)
            for job, state in zip(jobs, states, strict=True)
            if state is not None and self._wants(job, state)
        ]
        while going:
            if self._bursts is None:
                self._token(going)
            else:
                self._burst(going, self._bursts)
            going = [(job, state) for job, state in going if self._wants(job, state)]
        return [
            self._answer(job, Hypothesis() if state is None else state.hypothesis)
            for job, state in zip(jobs, states, strict=True)
        ]

    def _token(self, going: Sequence[tuple[Job, _State]]) -> None:
        segments = [self._segment(job, state) for job, state in going]
        logits = self._model.forward(segments)[:, : self._columns]
        for segment, (_, state) in zip(segments, going, strict=True):
            state.fed.extend(segment.tokens)
        proposal = self._propose(logits, going)
        for row, (_, state) in enumerate(going):
            _add(state.hypothesis, proposal, row)

    def _burst(self, going: Sequence[tuple[Job, _State]], bursts: Bursts) -> None:
        unchecked = all(not job.least_chance and not job.token_cost for job, _ in going)
        most = MOST_TOKENS if unchecked else BURST
        wishes = [
            Wish(
                self._segment(job, state),
                job.sampling,
                state.hypothesis.start,
                min(self._limit(job) - len(state.hypothesis.tokens), most),
            )
            for job, state in going
        ]
        for wish, proposal, (job, state) in zip(wishes, bursts.draft(wishes), going, strict=True):
            state.fed.extend(wish.segment.tokens)
            for row in range(wish.count):
                if row:
                    if not self._wants(job, state):
                        break
                    state.fed.append(state.hypothesis.tokens[-1])
                _add(state.hypothesis, proposal, row)
            self._model.lengths[state.slot] = len(state.fed)

    def _propose(self, logits: Tensor, going: Sequence[tuple[Job, _State]]) -> Proposal:
        sampling = [job.sampling for job, _ in going]
        positions = [len(job.tokens) + len(state.hypothesis.tokens) for job, state in going]
        if self._coupled:
            return propose_coupled(
                logits, sampling, positions, support_size=self._support_size, token_ids=self._token_ids
            )
        starts = [state.hypothesis.start for _, state in going]
        return propose(
            logits, sampling, positions, starts, support_size=self._support_size, token_ids=self._token_ids
        )

    def _answer(self, job: Job, hypothesis: Hypothesis) -> Draft:
        confidence = hypothesis.confidence[: self._limit(job)]
        count = self._calibration.worth(confidence, job.least_chance)
        return Draft(hypothesis.block(count), confidence[:count])

    def _wants(self, job: Job, state: _State) -> bool:
        """Whether another token should be drafted."""
        confidence = state.hypothesis.confidence
        return (
            len(confidence) < self._limit(job)
            and self._calibration.worth(confidence, job.least_chance) == len(confidence)
            and (not confidence or self._calibration.pays(confidence, job.token_cost))
        )

    def learn(self, confidence: float, stood: bool) -> None:
        """See `DraftEngine.learn`."""
        self._calibration.learn(confidence, stood)

    def release(self, key: int) -> None:
        """See `DraftEngine.release`."""
        state = self._states.pop(key, None)
        if state is not None:
            self._model.release(state.slot)

    def _limit(self, job: Job) -> int:
        """The last drafted token is never fed, so a draft may end at the context's end."""
        return max(0, min(job.grant, self._max_context - len(job.tokens) + 1))

    def _catch_up(self, job: Job) -> _State | None:
        """The sequence's cache rolled back to what still holds, long prompts fed but for the last chunk."""
        if self._limit(job) < 1:
            return None
        state = self._states.get(job.key)
        if state is None:
            slot = self._model.acquire(np.array(job.tokens[:-1], dtype=np.int32), job.tenant)
            if slot is None:
                return None
            shared = self._model.lengths[slot]
            state = self._states[job.key] = _State(slot, list(job.tokens[:shared]), shared)
        state.hypothesis.follow(job.tokens)
        text = [*job.tokens, *state.hypothesis.tokens]
        fed, limit = state.fed, min(len(state.fed), len(text) - 1)
        # What was committed stays; only guesses can have been refused.
        guessed = range(min(state.committed, limit), limit)
        same = next((i for i in guessed if fed[i] != text[i]), limit)
        del fed[same:]
        state.committed = len(job.tokens)
        self._model.lengths[state.slot] = same
        while (rest := len(text) - len(fed)) > JOINT_TOKENS:
            chunk = text[len(fed) : len(fed) + min(PREFILL_CHUNK, rest - 1)]
            self._model.forward([Segment(state.slot, len(fed), chunk, 0)])
            fed.extend(chunk)
        return state

    def _segment(self, job: Job, state: _State) -> Segment:
        fed = len(state.fed)
        tokens = [*job.tokens[fed:], *state.hypothesis.tokens[max(0, fed - len(job.tokens)) :]]
        return Segment(state.slot, fed, tokens, 1)


def _add(hypothesis: Hypothesis, proposal: Proposal, row: int) -> None:
    size = int(proposal.support_sizes[row])
    hypothesis.add(
        int(proposal.tokens[row]),
        float(proposal.confidence[row]),
        proposal.support_ids[row, :size],
        proposal.support_weights[row, :size],
    )
