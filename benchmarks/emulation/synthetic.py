"""A target and a draft engine without weights, *synthetic*: what a pass takes and what is accepted is stated.

The target's next token is a fixed function of the sequence (named by its first token) and the position, so
that every answer is known beforehand. The draft engine guesses it, or misses, by a coin that is a fixed
function too: runs that differ in rounds or networks meet the same luck.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.drafter.confidence import Calibration
from goodspeed_runtime.drafter.engine import Draft, Job
from goodspeed_runtime.drafter.hypothesis import Hypothesis

VOCABULARY = 64
PERIOD = 4093
"""Truths repeat after so many tokens; a prime, so that they do not in step with anything else."""
_SHARES = (0.75, 0.25)


def _table(seed: int, most: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(most, size=(VOCABULARY, PERIOD))


TRUTH = _table(1, VOCABULARY)


def truth(name: int, position: int) -> int:
    """The target's token at ``position`` of the sequences whose first token is ``name``."""
    return int(TRUTH[name, position % PERIOD])


Device = contextlib.AbstractContextManager[object]
"""What computes one thing at a time for all who hold it: a lock."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a pass: ``base`` and for each token more ``token``."""

    base: float = 0.0
    token: float = 0.0


class _Slots:
    """What a verifier asks of a KV cache, with nothing in it."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = list(range(slots))[::-1]

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def acquire(self) -> int | None:
        return self._free.pop() if self._free else None

    def release(self, slot: int) -> None:
        self._free.append(slot)

    def scrub(self, slot: int) -> None:
        """Nothing to clean."""

    def extend(self, slot: int, tokens: object) -> int:
        """Nothing is shared: as many tokens as nobody has computed before."""
        return 0


class SyntheticTarget:
    """Stands in for a `ServedModel`: its passes sleep as long as stated.

    Attributes:
        seconds: of CPU time spent in `forward`.
    """

    vocabulary_size = VOCABULARY
    token_ids = None
    steps = None
    device = torch.device("cpu")

    def __init__(self, slots: int, cost: Cost, device: Device | None = None) -> None:
        """Passes have the device for themselves while they take."""
        self.cache = _Slots(slots)
        self._device = device or contextlib.nullcontext()
        self.lengths = [0] * slots
        self.seconds = 0.0
        self._cost = cost
        self._names = np.zeros(slots, dtype=np.int64)

    def acquire(self, tokens: object = None, scope: object = None) -> int | None:
        """Takes a slot, which holds nothing of the tokens."""
        return self.cache.acquire()

    def release(self, slot: int) -> None:
        """Gives a slot back."""
        self.lengths[slot] = 0
        self.cache.release(slot)

    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """Logits that leave no doubt about the truth."""
        started = time.thread_time()
        for segment in segments:
            if segment.start == 0:
                self._names[segment.slot] = segment.tokens[0]
        slots = np.array([segment.slot for segment in segments])
        rows = np.array([segment.logit_rows for segment in segments])
        ends = np.array([segment.start + len(segment.tokens) for segment in segments])
        total = int(rows.sum())
        offsets = np.arange(total) - np.repeat(np.cumsum(rows) - rows, rows)
        positions = np.repeat(ends - rows + 1, rows) + offsets
        logits = np.zeros((total, VOCABULARY), dtype=np.float32)
        logits[np.arange(total), TRUTH[np.repeat(self._names[slots], rows), positions % PERIOD]] = 50.0
        tokens = int(sum(len(segment.tokens) for segment in segments))
        if seconds := self._cost.base + tokens * self._cost.token:
            with self._device:
                time.sleep(seconds)
        self.seconds += time.thread_time() - started
        return torch.from_numpy(logits)


class SyntheticEngine:
    """A `DraftEngine` of a stated speed and acceptance.

    Three positions in four are easy and one is hard, and the confidence says which, as a real model's does.
    Where the guess is wrong, the second candidate is right as often as a first one on a hard position.

    Attributes:
        fingerprint: as every engine has one.
        token_seconds: of drafting a token, for all sequences of a call together; may be changed.
    """

    fingerprint = "synthetic"

    def __init__(
        self,
        seed: int,
        token_seconds: float,
        *,
        easy: float = 0.95,
        hard: float = 0.35,
        support: int = 0,
        device: Device | None = None,
    ) -> None:
        """With ``support`` each q is so many ids, else a point mass; drafting a token takes the device."""
        self._device = device or contextlib.nullcontext()
        generator = np.random.default_rng((seed, 7))
        shape = (VOCABULARY, PERIOD)
        self._chance = generator.choice([easy, hard], size=shape, p=_SHARES)
        self._right = generator.random(shape) < self._chance
        self._support = support
        self._states: dict[int, Hypothesis] = {}
        self._calibration = Calibration()
        self.token_seconds = token_seconds

    @staticmethod
    def acceptance(easy: float = 0.95, hard: float = 0.35) -> float:
        """The mean chance of a guess to be right."""
        return easy * _SHARES[0] + hard * _SHARES[1]

    def draft(self, jobs: Sequence[Job]) -> list[Draft]:
        """See `DraftEngine.draft`."""
        states = []
        for job in jobs:
            state = self._states.setdefault(job.key, Hypothesis())
            state.follow(job.tokens)
            states.append(state)
        pairs = list(zip(jobs, states, strict=True))
        while going := [pair for pair in pairs if self._wants(*pair)]:
            with self._device:
                time.sleep(self.token_seconds)
            for job, state in going:
                self._guess(job, state)
        return [self._answer(job, state) for job, state in pairs]

    def _guess(self, job: Job, state: Hypothesis) -> None:
        name, place = job.tokens[0], (len(job.tokens) + len(state.tokens)) % PERIOD
        token = (TRUTH[name, place] + (0 if self._right[name, place] else 1)) % VOCABULARY
        ids = np.asarray((token + np.arange(self._support)) % VOCABULARY, dtype=np.int32)
        weights = np.ones(self._support, dtype=np.int32)
        state.add(int(token), float(self._chance[name, place]), ids, weights)

    def _wants(self, job: Job, state: Hypothesis) -> bool:
        confidence = state.confidence
        return (
            len(confidence) < job.grant
            and self._calibration.worth(confidence, job.least_chance) == len(confidence)
            and (not confidence or self._calibration.pays(confidence, job.token_cost))
        )

    def _answer(self, job: Job, state: Hypothesis) -> Draft:
        confidence = state.confidence[: job.grant]
        count = self._calibration.worth(confidence, job.least_chance)
        return Draft(state.block(count), confidence[:count])

    def learn(self, confidence: float, stood: bool) -> None:
        """See `DraftEngine.learn`."""
        self._calibration.learn(confidence, stood)

    def release(self, key: int) -> None:
        """See `DraftEngine.release`."""
        self._states.pop(key, None)
