"""Grants for goodput per second: the round's deadline is chosen with them, late drafts join a later round.

The paper's rounds wait for everyone (PAPER, "Where the paper stops", 1 and 2). Here a round waits D seconds
after the last verdicts, and P = D + T_V(tokens). A draft that arrives within D is verified every round, one
that takes longer every k-th; in the rounds between the verifier gives a token of its own, with which the
draft agrees or is lost, so that a client earns (k + mu(s) - mu(k-1))/(k·P) tokens per second. For each D
the best grants are found with a price on budget and, by Dinkelbach's method for a ratio, a price on the
verifier's time; the best D wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.scheduling.allocation import NO_REFINEMENTS, Allocation, Refinements, check
from goodspeed_runtime.scheduling.arrays import Flags, Floats, Integers
from goodspeed_runtime.scheduling.goodput import expected_by_length
from goodspeed_runtime.scheduling.timing import Curve
from goodspeed_runtime.scheduling.utility import AlphaFair

_DEADLINES = 16
_GOLDEN = (5**0.5 - 1) / 2
_DINKELBACH_STEPS = 4
_PERIOD_STEPS = 3
_ENOUGH = 1 + 1e-3
"""Less than that a further step of Dinkelbach's method is not worth."""
_TOLL = 0.02
"""Tokens that a draft must bring at least: less is not worth the work of those who draft it."""
_MOST_NUMBERS = 1 << 13
"""Of all deadlines, sequences and lengths that are looked at together; with more, fewer deadlines."""
_HUGE = 1e300


class PerSecondAllocator:
    """Maximises Σ w·U'(X)·(tokens per second), X in tokens per second, over grants and the round's deadline.

    For one deadline the grants are the best on the concave envelope of what each client's length earns; the
    few tokens left between two of its corners are then given greedily. Where drafting earns less than its
    time costs, the grant is zero. Meant for rounds without a barrier. Needs `Refinements.timing`;
    `survival` is used where it is given.
    """

    def __init__(self, utility: AlphaFair | None = None, *, rescan: int = 32) -> None:
        """Every `rescan`-th allocation chooses the deadline anew."""
        if rescan < 1:
            raise ValueError(f"rescan is {rescan}; it must be at least 1")
        self._utility = utility or AlphaFair()
        self._rescan = rescan
        self._age = 0
        self._chosen: float | None = None
        self._gained = 0.0
        self._value = 0.0
        self._phase = 0.0
        self._last: tuple[Problem, int, float] | None = None

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
        """See `Allocator.allocate`; goodput is in tokens per second, and so is what the price buys.

        The price is the larger of a further token's worth at this deadline, and at the best one for it.

        Raises:
            ValueError: As there, and when timing is missing.
        """
        check(weights=weights, acceptance=acceptance, goodput=goodput, caps=caps, budget=budget)
        timing = refinements.timing
        if timing is None:
            raise ValueError("goodput per second needs refinements.timing; measure it, or use the gradient")
        if not len(caps):
            return Allocation(np.zeros(0, np.int64), 0.0, 0.0)
        floors = refinements.floors if refinements.floors is not None else np.zeros_like(caps)
        floors = np.minimum(floors, caps)
        if int(floors.sum()) > budget:
            raise ValueError("floors take more tokens than the budget; lower them or raise it")
        lengths = np.arange(min(int(caps.max()), budget + 1) + 1)
        earned = expected_by_length(acceptance, lengths, refinements.survival)
        worth = weights * np.exp(np.minimum(self._utility.log_gradient(goodput), 600.0))
        scale = max(float(worth.max()), 1e-300)
        earned *= (worth / scale)[:, None]
        allowed = (lengths <= caps[:, None]) & (lengths >= floors[:, None])
        arrivals = timing.delay_seconds[:, None] + lengths * timing.draft_seconds[:, None]
        # Who drafts nothing waits for nothing: the verifier goes on by itself.
        arrivals[:, 0] = 0
        problem = Problem(earned, arrivals, allowed, timing.verification.curve())
        self._last = problem, budget, scale
        if self._chosen is None or self._age >= self._rescan:
            self._reconsider()
        self._age += 1
        guess = np.array([self._value / scale])
        grants, values, prices, periods = _divide(np.array([self._chosen]), problem, budget, guess)
        self._value = float(values[0]) * scale
        price = max(float(prices[0]), self._gained)
        return Allocation(grants[0], price * scale, self._chosen, float(periods[0]))

    def reconsider(self) -> None:
        """Chooses the deadline of the next allocations by the last one, if it is time to.

        Who calls this between allocations, when nobody waits, spares them the choice.
        """
        if self._last is not None and self._age >= self._rescan:
            self._reconsider()

    def _reconsider(self) -> None:
        assert self._last is not None
        problem, budget, scale = self._last
        candidates = self._candidates(problem)
        guess = np.full(len(candidates), self._value / scale)
        values = _divide(candidates, problem, budget, guess)[1]
        # At one deadline a token more may be worth nothing, since its draft would be late; with the
        # deadline that fits it, it is.
        more = _divide(candidates, problem, budget + 1, values)[1]
        self._gained = max(float(more.max() - values.max()), 0.0)
        self._chosen = float(candidates[int(values.argmax())])
        self._age = 0

    def _candidates(self, problem: Problem) -> Floats:
        """Deadlines to choose from: none, the present one, and some of those at which drafts arrive.

        Which of these changes from time to time, so that all are looked at sooner or later.
        """
        arrivals = problem.arrivals[problem.allowed]
        most = min(max(_MOST_NUMBERS // problem.arrivals.size, 2), _DEADLINES)
        spread = np.unique(arrivals)
        if len(spread) > most:
            self._phase = (self._phase + _GOLDEN) % 1
            inner = (np.arange(most - 1) + self._phase) / (most - 1)
            spread = np.quantile(arrivals, np.append(inner, 1.0))
        present = [] if self._chosen is None else [self._chosen]
        return np.unique(np.concatenate([[0.0], present, spread]))


@dataclass(frozen=True, slots=True)
class Problem:
    """What the allocation is between, one row a sequence and one column a length.

    Attributes:
        earned: float64 `[n, L + 1]`, what a draft of each length is worth, bonus included.
        arrivals: float64 `[n, L + 1]`, seconds after the verdicts when it is there.
        allowed: bool `[n, L + 1]`.
        cost: T_V of tokens `[d]`: seconds and slopes, `[d]` each.
    """

    earned: Floats
    arrivals: Floats
    allowed: Flags
    cost: Curve


def _divide(
    deadlines: Floats, problem: Problem, budget: int, ratio: Floats
) -> tuple[Integers, Floats, Floats, Floats]:
    """For every deadline `[d]` the grants int64 `[d, n]`, what they earn a second, price and period.

    All deadlines are looked at together: for a few sequences an array operation costs more than its numbers.
    Dinkelbach's method begins at `ratio`, `[d]`, a guess of what they earn, any number from 0 on.
    """
    count, (size, width) = len(deadlines), problem.earned.shape
    grants = np.zeros((count, size), np.int64)
    values, prices = np.full(count, -1.0), np.zeros(count)
    seconds, slope = problem.cost(np.full(count, float(size)))
    period = deadlines + seconds
    periods = period.copy()
    late = np.maximum(problem.arrivals - deadlines[:, None, None], 0)
    every = np.arange(size)[:, None], np.arange(width)
    rows, places = np.arange(size), np.arange(count)[:, None]
    toll = _TOLL * problem.earned[:, :1] * (every[1] > 0)
    for _ in range(_DINKELBACH_STEPS):
        turns = _turns(late, period[:, None, None])
        fed = (ratio * slope)[:, None, None] * np.maximum(every[1] + 1, turns)
        found, price = _buy((_earned(problem, *every, turns) - fed - toll) / turns, problem.allowed, budget)
        its_late = late[places, rows, found]
        period, slope = _period(found, its_late, deadlines, problem.cost, period)
        turns = _turns(its_late, period[:, None])
        ratio = (_earned(problem, rows, found, turns) / turns).sum(axis=1) / period
        better = ratio > values * _ENOUGH
        if not better.any():
            break
        grants[better], values[better] = found[better], ratio[better]
        prices[better], periods[better] = price[better] / period[better], period[better]
    return grants, values, prices, periods


def _turns(late: Floats, period: Floats) -> Floats:
    """Every how many rounds a draft is verified that is so much later than the deadline."""
    return np.asarray(1 + np.ceil(late / period - 1e-9))


def _earned(problem: Problem, rows: Integers, lengths: Integers, turns: Floats) -> Floats:
    """What sequences earn in so many rounds that end with a draft of such lengths.

    In the rounds before, the verifier gives each a token of its own, k - 1 in all. The draft survives that
    with probability alpha^(k-1), so that k + mu(s) - mu(k-1) tokens are expected, and k where none is left.
    """
    mu = problem.earned
    overtaken = np.minimum(turns - 1, mu.shape[1] - 1).astype(np.int64)
    left = np.maximum(mu[rows, lengths] - mu[rows, overtaken], 0)
    return np.asarray(turns * mu[rows, 0] + left)


def _period(
    found: Integers, late: Floats, deadlines: Floats, cost: Curve, period: Floats
) -> tuple[Floats, Floats]:
    """Seconds of a round on average with these grants, and what a token more in it adds, `[d]` each."""
    slope = period
    for _ in range(_PERIOD_STEPS):
        turns = _turns(late, period[:, None])
        seconds, slope = cost((np.maximum(found + 1, turns) / turns).sum(axis=1))
        period = deadlines + seconds
    return period, slope


def _buy(net: Floats, allowed: Flags, budget: int) -> tuple[Integers, Floats]:
    """The lengths that maximise Σ net (float64 `[d, n, L + 1]`) within the budget, at one price each."""
    steps = _envelope(net, allowed)
    flat = steps.reshape(len(steps), -1)
    last = flat.shape[1] - 1 - budget
    cuts = np.zeros(len(flat))
    if last >= 0:
        cuts = np.maximum(np.partition(flat, last, axis=1)[:, last], 0.0)
    # All steps of one piece of an envelope are equal, so that nobody stops within a piece.
    price = cuts[:, None, None]
    found = (steps > price).sum(axis=2)
    if cuts.any():
        tied = (steps == price).sum(axis=2) * (cuts > 0)[:, None]
        whole = np.cumsum(tied, axis=1) <= (budget - found.sum(axis=1))[:, None]
        found += tied * whole
        left = budget - found.sum(axis=1)
        for place in np.flatnonzero((left > 0) & (tied > 0).any(axis=1) & (cuts > 0)).tolist():
            _spend(np.where(allowed, net[place], -np.inf), found[place], int(left[place]))
    return found, cuts


def _envelope(net: Floats, allowed: Flags) -> Floats:
    """float64 `[d, n, L]`: slopes of the least concave curve above each row of `net`, where it is allowed.

    Below a row's floor they are huge, above its cap minus infinity. The slope at a step is the least,
    over where a piece may begin, of the largest, over where it may end (the min-max formula of isotonic
    regression).
    """
    width = net.shape[2]
    ends = np.ascontiguousarray(np.where(allowed, net, -np.inf).transpose(2, 0, 1))
    begins = allowed.T[:, None, :]
    slopes = np.full((width - 1, *ends.shape[1:]), np.inf)
    spans = np.arange(1.0, width)[:, None, None]
    for begin in range(width - 1):
        from_ = np.where(begins[begin], ends[begin], -_HUGE)
        pieces = (ends[begin + 1 :] - from_) / spans[: width - 1 - begin]
        # Row by row is several times as fast as `accumulate` along them.
        for end in range(len(pieces) - 1, 0, -1):
            np.maximum(pieces[end - 1], pieces[end], out=pieces[end - 1])
        np.minimum(slopes[begin:], pieces, out=slopes[begin:])
    return np.ascontiguousarray(slopes.transpose(1, 2, 0))


def _spend(net: Floats, found: Integers, left: int) -> None:
    """Gives the `left` tokens, in place, to the steps that earn most per token; some may stay unused."""
    rows = np.arange(len(net))
    while left > 0:
        more = np.arange(net.shape[1]) - found[:, None]
        rise = np.where(
            (more > 0) & (more <= left), (net - net[rows, found][:, None]) / np.maximum(more, 1), 0
        )
        best = int(rise.argmax())
        row, length = divmod(best, net.shape[1])
        if rise[row, length] <= 0:
            return
        left -= length - int(found[row])
        found[row] = length
