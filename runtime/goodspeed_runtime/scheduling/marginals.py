"""The exact solution of equation 5 from its marginal gains; weights and estimates come from elsewhere.

Going from s to s + 1 tokens gains v·α^(s+1) (PAPER, equation 5), which falls with s: the problem is
separable and concave, so the C largest gains are the optimum. Gains are compared by their logarithm log v +
(s+1)·log α, where the only operations are one product and one sum: a heap on scalars and the array solver
then see the very same numbers, and agree bit by bit, ties included. Ties go to the lower row.
"""

import heapq
import math

import numpy as np

from goodspeed_runtime.scheduling.allocation import Allocation
from goodspeed_runtime.scheduling.arrays import Floats, Integers

# Up to this many gains it is quicker to look at every one than to search for the threshold.
_DENSE_GAINS = 4096


def solve(log_values: Floats, log_acceptance: Floats, caps: Integers, budget: int) -> Allocation:
    """Take the `budget` largest positive gains, vectorised.

    Args:
        log_values: float64 `[n]`, log v; −inf for a client worth nothing.
        log_acceptance: float64 `[n]`, log α, negative; −inf for α = 0.
        caps: int64 `[n]`, the most tokens a row may take.
        budget: The most tokens in all.

    Returns:
        The grants and, as shadow price, the largest gain that was not taken (0 if every cap is filled).
    """
    size = len(caps)
    if not size:
        return Allocation(np.zeros(0, np.int64), 0.0)
    longest = int(caps.max())
    if longest * size <= _DENSE_GAINS:
        return _solve_dense(log_values, log_acceptance, caps, budget, longest)
    return _solve_by_threshold(log_values, log_acceptance, caps, budget)


def solve_with_heap(log_values: Floats, log_acceptance: Floats, caps: Integers, budget: int) -> Allocation:
    """The same solution, a token at a time, in O(n + C log n): what the array solver is held to."""
    grants = np.zeros(len(caps), np.int64)
    heap = [
        (-float(value + slope), row)
        for row, (value, slope, cap) in enumerate(zip(log_values, log_acceptance, caps, strict=True))
        if cap > 0 and value + slope > -np.inf
    ]
    heapq.heapify(heap)
    for _ in range(budget):
        if not heap:
            break
        row = heap[0][1]
        grants[row] += 1
        if grants[row] < caps[row]:
            gain = float(log_values[row] + (grants[row] + 1) * log_acceptance[row])
            heapq.heapreplace(heap, (-gain, row))
        else:
            heapq.heappop(heap)
    return Allocation(grants, price(-heap[0][0]) if heap else 0.0)


def price(log_gain: float) -> float:
    """The gain itself, held to the largest float where a large α would overflow it."""
    return math.exp(min(log_gain, 709.0))


def solve_survival(
    log_values: Floats, log_survival: Floats, caps: Integers, budget: int, skip: Integers | None = None
) -> Allocation:
    """The same for gains v·survival[s], float64 `[n, L]`: any that fall along s, not only powers of one α.

    `skip` (int64 `[n]`) tokens of each row count as granted already; caps and grants are what comes on top.
    """
    longest = log_survival.shape[1]
    gains = log_values[:, None] + log_survival
    if skip is not None:
        places = np.arange(longest) + skip[:, None]
        gains = np.where(
            places < longest, np.take_along_axis(gains, np.minimum(places, longest - 1), 1), -np.inf
        )
    return solve_gains(gains, caps, budget)


def _solve_dense(
    log_values: Floats, log_acceptance: Floats, caps: Integers, budget: int, longest: int
) -> Allocation:
    gains = log_values[:, None] + np.arange(1, longest + 1) * log_acceptance[:, None]
    return solve_gains(gains, caps, budget)


def solve_gains(gains: Floats, caps: Integers, budget: int) -> Allocation:
    """The `budget` largest of `gains` (`[n, L]`, falling along each row, changed here), none of them −inf."""
    longest = gains.shape[1]
    gains[np.arange(longest) >= caps[:, None]] = -np.inf
    flat = gains.ravel()
    # The largest gain left out is element `budget` in falling order: all above it are taken, equals by row.
    last = flat.size - 1 - budget
    cut = float(np.partition(flat, last)[last]) if last >= 0 else -math.inf
    above = gains > cut
    grants = above.sum(axis=1)
    if cut == -math.inf:
        return Allocation(grants, 0.0)
    left = budget - int(grants.sum())
    if left:
        np.add.at(grants, np.flatnonzero(flat == cut)[:left] // longest, 1)
    return Allocation(grants, price(cut))


def _solve_by_threshold(
    log_values: Floats, log_acceptance: Floats, caps: Integers, budget: int
) -> Allocation:
    """Two thresholds with the budget between them, then an exact choice among the few gains between."""
    grants = np.zeros(len(caps), np.int64)
    rows = np.flatnonzero((caps > 0) & (log_values + log_acceptance > -np.inf))
    if len(rows) < len(caps):
        log_values, log_acceptance, caps = log_values[rows], log_acceptance[rows], caps[rows]
    if int(caps.sum()) <= budget:
        grants[rows] = caps
        return Allocation(grants, 0.0)
    ladder = _Ladder(log_values, log_acceptance, caps.astype(np.float64))
    taken, open_to = ladder.bracket(budget)
    # Between the two thresholds lie a few gains, listed one by one: `owner` takes its `nth` token.
    between = (open_to - taken).astype(np.int64)
    owner = np.repeat(np.arange(len(between)), between)
    nth = taken[owner] + 1 + np.arange(len(owner)) - np.repeat(np.cumsum(between) - between, between)
    gains = log_values[owner] + nth * log_acceptance[owner]
    left = budget - int(taken.sum())
    cut = np.partition(gains, len(gains) - 1 - left)[len(gains) - 1 - left]
    chosen = gains > cut
    chosen[np.flatnonzero(gains == cut)[: left - int(chosen.sum())]] = True
    grants[rows] = taken.astype(np.int64) + np.bincount(owner[chosen], minlength=len(between))
    return Allocation(grants, price(float(cut)))


class _Ladder:
    """The gains of every row as a function of the threshold, all float64 `[n]`."""

    def __init__(self, log_values: Floats, log_acceptance: Floats, caps: Floats) -> None:
        self._values = log_values
        self._slopes = log_acceptance
        self._reach = -1.0 / log_acceptance
        self._caps = caps

    def bracket(self, budget: int) -> tuple[Floats, Floats]:
        """Grants at two thresholds: with the first at most `budget` tokens, with the second more."""
        size = len(self._values)
        bottom = float((self._values + self._caps * self._slopes).min())
        top = float(self._values.max())
        high = self._level(float(budget), bottom, top)
        low = self._level(float(budget + size + 1), bottom, high)
        under, over = self._exact(high), self._exact(low)
        while under.sum() > budget:  # rounding: the level lay a hair too low
            high += max(abs(high), 1.0) * 1e-12
            under = self._exact(high)
        if over.sum() <= budget:
            low, over = bottom, self._caps
        for _ in range(8):
            few, many = float(under.sum()), float(over.sum())
            if many - few <= max(1024, size // 64) or high <= low:
                break
            middle = low + (high - low) * (many - budget) / (many - few)
            if not low < middle < high:
                break
            counts = self._exact(middle)
            if counts.sum() <= budget:
                high, under = middle, counts
            else:
                low, over = middle, counts
        return under, over

    def _level(self, tokens: float, low: float, high: float) -> float:
        """The threshold at which the relaxed grants sum to `tokens`: Newton steps held inside a bracket."""
        level = high
        for _ in range(60):
            relaxed = (self._values - level) * self._reach
            inside = (relaxed > 0) & (relaxed < self._caps)
            excess = float(np.clip(relaxed, 0, self._caps).sum()) - tokens
            if excess > 0:
                low = level
            else:
                high = level
            if abs(excess) < 0.5 or high - low < 1e-12:
                break
            steepness = float(self._reach[inside].sum())
            level += excess / steepness if steepness else np.inf
            if not low < level < high:
                level = (low + high) / 2
        return high

    def _exact(self, level: float) -> Floats:
        """How many gains of each row are at least `level`, exactly, whatever the division rounded."""
        counts = np.floor(np.clip((self._values - level) * self._reach, 0, self._caps))
        counts += (counts < self._caps) & (self._values + (counts + 1) * self._slopes >= level)
        counts -= (counts > 0) & (self._values + counts * self._slopes < level)
        return np.asarray(counts)
