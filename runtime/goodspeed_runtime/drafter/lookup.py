"""Prompt lookup: the guess is what followed last time (``ngram://``). No weights, no torch.

Answers repeat their prompts and themselves. The last few tokens are looked up
among all earlier ones, longest match first, and what came after is proposed.
Every q is a point mass, which costs nothing on the wire and stays lossless.
"""

from __future__ import annotations

from collections.abc import Sequence

from goodspeed_runtime.drafter.engine import Job
from goodspeed_runtime.protocol.wire import DraftBlock

LONGEST = 4
SHORTEST = 2


class NGramIndex:
    """Where each run of a few tokens last ended, over a sequence that only grows."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """Up to ``count`` tokens that followed an earlier occurrence of the latest ones.

        Args:
            tokens: the whole sequence; the same as last time with more at its end.
            count: most tokens to propose.
        """
        size = len(tokens)
        # The latest run itself must not be found, only its earlier twins.
        for end in range(max(self._indexed, SHORTEST), size):
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self._ends[tuple(tokens[end - length : end])] = end
        self._indexed = max(self._indexed, size)
        for length in range(min(LONGEST, size), SHORTEST - 1, -1):
            found = self._ends.get(tuple(tokens[size - length :]))
            if found is not None:
                return list(tokens[found : found + count])
        return []


class LookupEngine:
    """Draft engine of ``ngram://``."""

    fingerprint = "ngram"

    def __init__(self) -> None:
        self._indices: dict[int, NGramIndex] = {}

    def draft(self, jobs: Sequence[Job]) -> list[DraftBlock]:
        """See `DraftEngine.draft`."""
        return [
            DraftBlock.point_masses(
                self._indices.setdefault(job.key, NGramIndex()).propose(job.tokens, job.grant)
            )
            for job in jobs
        ]

    def release(self, key: int) -> None:
        """See `DraftEngine.release`."""
        self._indices.pop(key, None)
