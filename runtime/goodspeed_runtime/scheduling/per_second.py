"""Grants for goodput per second: the round's deadline is chosen with them, late drafts join a later round.

The paper's rounds wait for everyone (PAPER, "Where the paper stops", 1 and 2). Here a round waits D seconds
after the last verdicts. A draft that arrives within D is verified every round, one that takes longer every
k-th, so that a client earns mu(s)/(k·P) tokens per second with P = D + T_V(tokens). For each D the best
grants are found with a price on budget and, by Dinkelbach's method for a ratio, a price on the verifier's
time; the best D wins.
"""

import numpy as np

from goodspeed_runtime.scheduling.allocation import NO_REFINEMENTS, Allocation, Refinements, check
from goodspeed_runtime.scheduling.arrays import Flags, Floats, Integers
from goodspeed_runtime.scheduling.goodput import expected_by_length
from goodspeed_runtime.scheduling.timing import Timing, VerificationCost
from goodspeed_runtime.scheduling.utility import AlphaFair

_DEADLINES = 16
_DINKELBACH_STEPS = 4
_PERIOD_STEPS = 3


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
        earned *= (worth / max(float(worth.max()), 1e-300))[:, None]
        allowed = (lengths <= caps[:, None]) & (lengths >= floors[:, None])
        arrivals = timing.delay_seconds[:, None] + lengths * timing.draft_seconds[:, None]
        problem = (earned, arrivals, allowed, timing)
        if self._chosen is None or self._age >= self._rescan:
            spread = np.unique(arrivals[allowed])
            if len(spread) > _DEADLINES:
                spread = np.quantile(arrivals[allowed], np.linspace(0, 1, _DEADLINES))
            candidates = np.unique(np.concatenate([[0.0], spread]))
            grants, values, prices = _divide(candidates, *problem, budget)
            # At one deadline a token more may be worth nothing, since its draft would be late; with the
            # deadline that fits it, it is.
            self._gained = float(_divide(candidates, *problem, budget + 1)[1].max() - values.max())
            self._age = 0
        else:
            candidates = np.array([self._chosen])
            grants, values, prices = _divide(candidates, *problem, budget)
        self._age += 1
        best = int(values.argmax())
        self._chosen = float(candidates[best])
        price = max(float(prices[best]), self._gained)
        return Allocation(grants[best], price * float(worth.max()), self._chosen)


def _divide(
    deadlines: Floats, earned: Floats, arrivals: Floats, allowed: Flags, timing: Timing, budget: int
) -> tuple[Integers, Floats, Floats]:
    """For every deadline `[d]` the grants int64 `[d, n]`, what they earn a second, and the price."""
    rows, lengths = np.arange(earned.shape[0]), np.arange(earned.shape[1])
    cost = timing.verification
    grants = np.zeros((len(deadlines), len(rows)), np.int64)
    values, prices = np.full(len(deadlines), -1.0), np.zeros(len(deadlines))
    for place, deadline in enumerate(deadlines):
        period, slope, ratio = deadline + cost.at(len(rows)), cost.slope(len(rows)), 0.0
        for _ in range(_DINKELBACH_STEPS):
            every = _turns(arrivals, deadline, period)
            net = (earned - ratio * slope * (lengths + 1)) / every
            found, price = _buy(net, allowed, budget)
            period, slope = _period(found, arrivals[rows, found], deadline, cost, period)
            turn = _turns(arrivals[rows, found], deadline, period)
            ratio = float((earned[rows, found] / turn).sum()) / period
            if ratio <= values[place]:
                break
            grants[place], values[place], prices[place] = found, ratio, price / period
    return grants, values, prices


def _turns(arrivals: Floats, deadline: float, period: float) -> Floats:
    """Every how many rounds a draft that takes so long is verified."""
    return np.asarray(1 + np.ceil(np.maximum(arrivals - deadline, 0) / period - 1e-9))


def _period(
    found: Integers, arrivals: Floats, deadline: float, cost: VerificationCost, period: float
) -> tuple[float, float]:
    """Seconds of a round on average with these grants, and what a token more in it adds."""
    tokens = 0.0
    for _ in range(_PERIOD_STEPS):
        tokens = float(((found + 1) / _turns(arrivals, deadline, period)).sum())
        period = deadline + cost.at(tokens)
    return period, cost.slope(tokens)


def _buy(net: Floats, allowed: Flags, budget: int) -> tuple[Integers, float]:
    """The lengths that maximise Σ net (float64 `[n, L + 1]`) within the budget, at one price."""
    steps = _envelope(net, allowed)
    last = steps.size - 1 - budget
    cut = max(float(np.partition(steps, last, axis=None)[last]), 0.0) if last >= 0 else 0.0
    # All steps of one piece of an envelope are equal, so that nobody stops within a piece.
    found = (steps > cut).sum(axis=1)
    if cut:
        _spend(np.where(allowed, net, -np.inf), found, budget - int(found.sum()))
    return found, cut


def _envelope(net: Floats, allowed: Flags) -> Floats:
    """float64 `[n, L]`: the slopes of the least concave curve above each row of `net`, where it is allowed.

    Below a row's floor they are infinite, above its cap minus infinity. The slope at a step is the least,
    over where a piece may begin, of the largest, over where it may end (the min-max formula of isotonic
    regression).
    """
    places = np.arange(net.shape[1])
    span = (places[:, None] - places)[:, :, None]  # axes: where a piece ends, where it begins, rows
    values, open_ = net.T, allowed.T
    slopes = (values[:, None] - values) / np.where(span > 0, span, 1)
    slopes = np.where((span > 0) & open_[:, None], slopes, -np.inf)
    slopes = np.where(open_, slopes, np.inf)
    ends = np.maximum.accumulate(slopes[::-1], axis=0)[::-1]
    begins = np.minimum.accumulate(ends, axis=1)
    return np.asarray(begins[places[1:], places[:-1]].T)


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
