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
        least_chance: tokens after the first that stand with a smaller chance, all before them included, are
            left out.
        token_cost: seconds to draft a token over the seconds that the rest of a round takes; a new token is
            drafted while it adds more goodput per second than that.
        tenant: keys and values of equal beginnings are shared among the sequences of one.
    """

    key: int
    tokens: Sequence[int]
    grant: int
    sampling: Sampling
    least_chance: float = 0.0
    token_cost: float = 0.0
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft, and how sure the engine is of it.

    Attributes:
        block: tokens and their q, from the first token after the committed ones.
        confidence: of each token, in [0, 1]; a function of q and what precedes the token, never of the token.
    """

    block: DraftBlock
    confidence: list[float]

    def __len__(self) -> int:
        return len(self.block)


class DraftEngine(Protocol):
    """Guesses what the target will say. Called from one thread only.

    What was guessed for a sequence is kept: asked again, with more tokens committed or for more tokens, an
    engine goes on from there as far as what was committed agrees. Drafting ahead is asking for more than is
    sent.
    """

    @property
    def fingerprint(self) -> str:
        """Of the draft model."""
        ...

    def draft(self, jobs: Sequence[Job]) -> list[Draft]:
        """A draft for each job, in order; each may be shorter than its grant, or empty."""
        ...

    def learn(self, confidence: float, stood: bool) -> None:
        """A token drafted with this confidence stood its test, or fell; from any thread."""
        ...

    def release(self, key: int) -> None:
        """Forgets a sequence; one never seen is fine."""
        ...
