"""Prompt lookup: the guess is what followed last time (``ngram://``). No weights, no torch.

Answers repeat their prompts and themselves. The last few tokens are looked up
among all earlier ones, longest match first, and what came after is proposed.
Every q is a point mass, which costs nothing on the wire and stays lossless.
"""

from __future__ import annotations

from collections.abc import Sequence

from goodspeed_runtime.drafter.confidence import Calibration
from goodspeed_runtime.drafter.engine import Draft, Job
from goodspeed_runtime.drafter.hypothesis import Hypothesis

LONGEST = 4
SHORTEST = 2


class NGramIndex:
    """Where each run of a few tokens last ended, over a sequence that only grows."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def find(self, tokens: Sequence[int], guessed: Sequence[int] = ()) -> tuple[int, int] | None:
        """Where the latest tokens last occurred: index of what followed, and how many tokens matched.

        Args:
            tokens: the whole sequence; the same as last time with more at its end.
            guessed: tokens after them that are not certain; they are looked up, never found.
        """
        size = len(tokens)
        # The latest run itself must not be found, only its earlier twins.
        for end in range(max(self._indexed, SHORTEST), size):
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self._ends[tuple(tokens[end - length : end])] = end
        self._indexed = max(self._indexed, size)
        latest = [*tokens[max(0, size - LONGEST) :], *guessed][-LONGEST:]
        for length in range(len(latest), SHORTEST - 1, -1):
            found = self._ends.get(tuple(latest[len(latest) - length :]))
            if found is not None:
                return found, length
        return None

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """Up to ``count`` tokens that followed an earlier occurrence of the latest ones; see `find`."""
        found = self.find(tokens)
        return [] if found is None else list(tokens[found[0] : found[0] + count])


class LookupEngine:
    """Draft engine of ``ngram://``."""

    fingerprint = "ngram"

    def __init__(self) -> None:
        self._states: dict[int, tuple[NGramIndex, Hypothesis]] = {}
        self._calibration = Calibration()

    def draft(self, jobs: Sequence[Job]) -> list[Draft]:
        """See `DraftEngine.draft`."""
        return [self._one(job) for job in jobs]

    def _one(self, job: Job) -> Draft:
        index, hypothesis = self._states.setdefault(job.key, (NGramIndex(), Hypothesis()))
        hypothesis.follow(job.tokens)
        found = index.find(job.tokens, hypothesis.tokens)
        if found is not None:
            where, length = found
            for token in job.tokens[where : where + job.grant - len(hypothesis.tokens)]:
                hypothesis.add(int(token), length / LONGEST)
        count = min(job.grant, self._calibration.worth(hypothesis.confidence, job.least_chance))
        return Draft(hypothesis.block(count), hypothesis.confidence[:count])

    def learn(self, confidence: float, stood: bool) -> None:
        """See `DraftEngine.learn`."""
        self._calibration.learn(confidence, stood)

    def release(self, key: int) -> None:
        """See `DraftEngine.release`."""
        self._states.pop(key, None)
