"""The allocators that the paper compares with: they look at no estimate (PAPER §V)."""

import numpy as np

from goodspeed_runtime.scheduling.allocation import Allocation, Floats, Integers, check


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
        self, *, weights: Floats, acceptance: Floats, goodput: Floats, caps: Integers, budget: int
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
        self, *, weights: Floats, acceptance: Floats, goodput: Floats, caps: Integers, budget: int
    ) -> Allocation:
        """See `Allocator.allocate`."""
        check(weights=weights, acceptance=acceptance, goodput=goodput, caps=caps, budget=budget)
        size = len(caps)
        # Stars and bars: n bars among C + n places; the stars before each bar are one row's, the last are
        # unused.
        bars = np.sort(self._generator.choice(budget + size, size, replace=False))
        lengths = np.diff(bars, prepend=-1) - 1
        return Allocation(np.minimum(caps, lengths.astype(np.int64)), 0.0)
