"""The seam between whoever measures a round and whoever divides its budget; it decides nothing itself.

Every allocator, the verifier and the simulator speak through these types, so that one can replace the other.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.timing import Timing


@dataclass(frozen=True, slots=True)
class Allocation:
    """One round's division of the budget.

    Attributes:
        grants: int64 `[n]`, draft tokens each sequence may send next; their sum is at most the budget.
        shadow_price: What one more token of budget would add to the objective, in utility per token; 0 when
            the budget does not bind, and for allocators that solve nothing.
        wait_seconds: How long the next round should wait for drafts after this one's verdicts, where the
            allocator chose that too; None leaves it to the caller.
        round_seconds: How long a round will then take, where the price is utility per token and second; None
            where it is utility per token and round.
    """

    grants: Integers
    shadow_price: float
    wait_seconds: float | None = None
    round_seconds: float | None = None

    @property
    def token_price(self) -> float:
        """What a token must bring in a round, in utility, to be worth its place in the budget."""
        return self.shadow_price * (1.0 if self.round_seconds is None else self.round_seconds)


@dataclass(frozen=True, slots=True)
class Refinements:
    """What a caller may know beyond the paper; an allocator that has no use for a part ignores it.

    Attributes:
        floors: int64 `[n]`, tokens that a row gets before anything is optimised, as far as its cap allows.
        survival: float64 `[n, L]`, the chance that the first s + 1 drafted tokens are all accepted, in
            place of α^(s+1). Each row falls along s; beyond L nothing survives.
        timing: How long drafting, the link and verification take.
    """

    floors: Integers | None = None
    survival: Floats | None = None
    timing: Timing | None = None


NO_REFINEMENTS = Refinements()


class Allocator(Protocol):
    """Divides a budget of draft tokens among sequences."""

    def allocate(
        self,
        *,
        weights: Floats,
        acceptance: Floats,
        goodput: Floats,
        caps: Integers,
        budget: int,
        refinements: Refinements = NO_REFINEMENTS,
    ) -> Allocation:
        """Divide `budget` among n sequences, one row each.

        Args:
            weights: float64 `[n]`, the client's weight w in w·U(X), non-negative.
            acceptance: float64 `[n]`, the estimate α̂ in [0, 1).
            goodput: float64 `[n]`, the client's smoothed goodput X in tokens.
            caps: int64 `[n]`, the longest draft the sequence may send, non-negative.
            budget: The draft tokens to divide, non-negative.
            refinements: Floors, survival by position and timing, where they are known.

        Raises:
            ValueError: An argument is out of range, not finite, or of another length.
        """
        ...


def check(*, weights: Floats, acceptance: Floats, goodput: Floats, caps: Integers, budget: int) -> None:
    """Refuse what no allocator can divide by; a NaN fails every comparison and so is refused as well.

    Raises:
        ValueError: It names the argument and what would be allowed.
    """
    size = len(acceptance)
    for name, values in (("weights", weights), ("goodput", goodput), ("caps", caps)):
        if len(values) != size:
            raise ValueError(f"{name} has {len(values)} rows, but acceptance has {size}")
    if budget < 0:
        raise ValueError(f"budget is {budget}; it must not be negative")
    if not size:
        return
    if not (acceptance.min() >= 0 and acceptance.max() < 1):
        raise ValueError("acceptance must lie in [0, 1); clip the estimate below 1")
    if not (weights.min() >= 0 and weights.max() < np.inf):
        raise ValueError("weights must be finite and not negative")
    if not (goodput.min() >= 0 and goodput.max() < np.inf):
        raise ValueError("goodput must be finite and not negative")
    if caps.min() < 0:
        raise ValueError("caps must not be negative")
