"""What the gradient is compared with: the paper's two baselines, and two stronger ones (PAPER §V)."""

import numpy as np

from goodspeed_runtime.scheduling.allocation import NO_REFINEMENTS, Allocation, Refinements, check
from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.goodput import barrier_seconds, expected_by_length, expected_goodput
from goodspeed_runtime.scheduling.marginals import solve_gains
from goodspeed_runtime.scheduling.utility import AlphaFair


class FixedAllocator:
    """Fixed-S: the same length for everyone, C/N unless `length` says otherwise.

    Where N does not divide C the tokens left over go round: each round another set of rows has one more.
    """

    def __init__(self, length: int | None = None) -> None:
        if length is not None and length < 0:
            raise ValueError(f"length is {length}; it must not be negative")
        self._length = length
        self._turn = 0

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
        """See `Allocator.allocate`; a `length` that the budget does not cover is cut to C/N."""
        check(weights=weights, acceptance=acceptance, goodput=goodput, caps=caps, budget=budget)
        size = len(caps)
        if not size:
            return Allocation(np.zeros(0, np.int64), 0.0)
        if self._length is not None and self._length * size <= budget:
            return Allocation(np.minimum(caps, self._length), 0.0)
        share, left = divmod(budget, size)
        lengths = np.full(size, share, np.int64)
        lengths[(self._turn + np.arange(left)) % size] += 1
        self._turn = (self._turn + left) % size
        return Allocation(np.minimum(caps, lengths), 0.0)


class RandomAllocator:
    """Random-S: every division with Σ S ≤ C is equally likely, before caps cut it."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

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
        """See `Allocator.allocate`."""
        check(weights=weights, acceptance=acceptance, goodput=goodput, caps=caps, budget=budget)
        size = len(caps)
        # Stars and bars: n bars among C + n places; the stars before each bar are one row's, the last are
        # unused.
        bars = np.sort(self._generator.choice(budget + size, size, replace=False))
        lengths = np.diff(bars, prepend=-1) - 1
        return Allocation(np.minimum(caps, lengths.astype(np.int64)), 0.0)


class BestFixedAllocator:
    """Fixed-S at the one length, from 0 to C/N, that the estimates say is best for Σ w·U.

    Without timing the utility is of goodput per round and longer is never worse; with it, of goodput per
    second in a round that waits for everyone.
    """

    def __init__(self, utility: AlphaFair | None = None) -> None:
        self._utility = utility or AlphaFair()

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
        """See `Allocator.allocate`."""
        check(weights=weights, acceptance=acceptance, goodput=goodput, caps=caps, budget=budget)
        size = len(caps)
        if not size:
            return Allocation(np.zeros(0, np.int64), 0.0)
        best, best_worth = np.zeros(size, np.int64), -np.inf
        for length in range(min(budget // size, int(caps.max())) + 1):
            lengths = np.minimum(caps, length)
            rate = expected_goodput(acceptance, lengths)
            if refinements.timing is not None:
                rate = rate / barrier_seconds(refinements.timing, lengths)
            worth = float((weights * self._utility.value(rate)).sum())
            if worth > best_worth:
                best, best_worth = lengths, worth
        return Allocation(best, 0.0)


class StaticOracleAllocator:
    """The one division best for Σ w·U(mu(S)) if it is kept for ever; give it the true α, or survival.

    It differs from the optimum that the gradient tends to only in that it may not mix divisions over time.
    """

    def __init__(self, utility: AlphaFair | None = None) -> None:
        self._utility = utility or AlphaFair()

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
        """See `Allocator.allocate`; U(mu(s)) is concave in s, so the largest steps are the best ones."""
        check(weights=weights, acceptance=acceptance, goodput=goodput, caps=caps, budget=budget)
        if not len(caps) or not caps.max():
            return Allocation(np.zeros(len(caps), np.int64), 0.0)
        lengths = np.arange(min(int(caps.max()), budget) + 1)
        worth = self._utility.value(expected_by_length(acceptance, lengths, refinements.survival))
        with np.errstate(divide="ignore"):
            gains = np.log(np.maximum(weights[:, None] * np.diff(worth, axis=1), 0))
        return solve_gains(gains, caps, budget)
