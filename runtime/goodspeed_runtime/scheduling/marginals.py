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
_DENSE_GAINS = 32768
# Rows from which the threshold is guessed, and how often the guess may be narrowed; both only cost time.
_SAMPLE = 8192
_NARROWINGS = 12
_BLOCK = 8192


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
    if caps.min() < longest:
        gains[np.arange(longest) >= caps[:, None]] = -np.inf
    flat = gains.ravel()
    # The largest gain left out is element `budget` in falling order: all above it are taken, equals by row.
    # What is never taken is left out first: many equals at the bottom can slow the partition tenfold.
    parted = flat[flat > -math.inf]
    last = parted.size - 1 - budget
    cut = -math.inf
    if last >= 0:
        parted.partition(last)
        cut = float(parted[last])
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
    if not caps.min() > 0 or log_values.min() == -np.inf or log_acceptance.min() == -np.inf:
        grants = np.zeros(len(caps), np.int64)
        rows = np.flatnonzero((caps > 0) & (log_values + log_acceptance > -np.inf))
        if not len(rows):
            return Allocation(grants, 0.0)
        part = _solve_by_threshold(log_values[rows], log_acceptance[rows], caps[rows], budget)
        grants[rows] = part.grants
        return Allocation(grants, part.shadow_price)
    if int(caps.sum()) <= budget:
        return Allocation(caps.astype(np.int64), 0.0)
    taken, open_to = _Ladder(log_values, log_acceptance, caps.astype(np.float64)).bracket(budget)
    grants = taken.astype(np.int64)
    # Between the two thresholds lie a few gains, listed one by one: `owner` takes its `nth` token.
    rows = np.flatnonzero(open_to > taken)
    between = (open_to[rows] - taken[rows]).astype(np.int64)
    owner = np.repeat(rows, between)
    nth = taken[owner] + 1 + np.arange(len(owner)) - np.repeat(np.cumsum(between) - between, between)
    gains = log_values[owner] + nth * log_acceptance[owner]
    left = budget - int(grants.sum())
    cut = np.partition(gains, len(gains) - 1 - left)[len(gains) - 1 - left]
    chosen = gains > cut
    chosen[np.flatnonzero(gains == cut)[: left - int(chosen.sum())]] = True
    np.add.at(grants, owner[chosen], 1)
    return Allocation(grants, price(float(cut)))


class _Ladder:
    """The gains of every row as a function of the threshold, all float64 `[n]`, every cap above 0."""

    def __init__(self, log_values: Floats, log_acceptance: Floats, caps: Floats) -> None:
        self._values = log_values
        self._slopes = log_acceptance
        self._reach = -1.0 / log_acceptance
        self._caps = caps

    def bracket(self, budget: int) -> tuple[Floats, Floats]:
        """Grants at two thresholds: with the first at most `budget` tokens, with the second more.

        A sample of the rows says where to look; counting over all rows then narrows the bracket to few gains.
        """
        size = len(self._values)
        low, high = -np.inf, np.inf
        under, over = np.zeros(size), self._caps
        few, many = 0.0, float(self._caps.sum())
        level, density = self._guess(budget)
        for _ in range(_NARROWINGS):
            counts = self._exact(level)
            total = float(counts.sum())
            if total <= budget:
                high, under, few = level, counts, total
            else:
                low, over, many = level, counts, total
            if many - few <= max(1024, size // 64):
                break
            if np.isfinite(low) and np.isfinite(high):
                density = (many - few) / (high - low)
            # Aim a little beyond the budget, so that it soon lies between two thresholds close together.
            beyond = max(size / 2048, abs(total - budget) / 8)
            level += (total - budget + (beyond if total > budget else -beyond)) / density
            if not low < level < high:
                break
        return under, over

    def _guess(self, budget: int) -> tuple[float, float]:
        """From every k-th row the threshold, and how many tokens of all rows a unit of it is worth."""
        step = max(len(self._values) // _SAMPLE, 1)
        values, reach, caps = self._values[::step], self._reach[::step], self._caps[::step]
        share = len(values) / len(self._values)
        low, high = float((values - caps / reach).min()), float(values.max())
        for _ in range(40):
            level = (low + high) / 2
            tokens = float(np.floor(np.clip((values - level) * reach, 0, caps)).sum())
            low, high = (level, high) if tokens > budget * share else (low, level)
            if high - low < 1e-9:
                break
        relaxed = (values - high) * reach
        steepness = float(reach[(relaxed > 0) & (relaxed < caps)].sum())
        return high, max(steepness, float(reach.min())) / share

    def _exact(self, level: float) -> Floats:
        """How many gains of each row are at least `level`, exactly, whatever the division rounded."""
        found = np.empty_like(self._values)
        for start in range(0, len(found), _BLOCK):  # what is at work stays in the processor's cache
            here = slice(start, start + _BLOCK)
            values, slopes, caps, counts = (
                self._values[here],
                self._slopes[here],
                self._caps[here],
                found[here],
            )
            np.subtract(values, level, out=counts)
            counts *= self._reach[here]
            np.maximum(counts, 0, out=counts)
            np.minimum(counts, caps, out=counts)
            np.floor(counts, out=counts)
            gain = counts * slopes
            gain += values
            lost = (gain < level) & (counts > 0)
            np.add(counts, 1, out=gain)
            gain *= slopes
            gain += values
            counts += (gain >= level) & (counts < caps)
            counts -= lost
        return found
