"""What a draft engine is, whatever it guesses with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.protocol.wire import DraftBlock


@dataclass(frozen=True, slots=True)
class Job:
    """A draft to be made.

    Attributes:
        key: of the sequence; its state in the engine is kept under it.
        tokens: prompt and everything committed.
        grant: most tokens to draft, at least 1.
        sampling: the request's.
    """

    key: int
    tokens: Sequence[int]
    grant: int
    sampling: Sampling


class DraftEngine(Protocol):
    """Guesses what the target will say. Called from one thread only."""

    @property
    def fingerprint(self) -> str:
        """Of the draft model."""
        ...

    def draft(self, jobs: Sequence[Job]) -> list[DraftBlock]:
        """A draft for each job, in order; each may be shorter than its grant, or empty."""
        ...

    def release(self, key: int) -> None:
        """Forgets a sequence; one never seen is fine."""
        ...
