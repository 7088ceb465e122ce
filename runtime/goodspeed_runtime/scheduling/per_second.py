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
from goodspeed_runtime.scheduling.timing import Timing
from goodspeed_runtime.scheduling.utility import AlphaFair

_DINKELBACH_STEPS = 4
_PRICE_STEPS = 30


class PerSecondAllocator:
    """Maximises Σ w·U'(X)·(tokens per second), X in tokens per second, over grants and the round's deadline.

    Grants are optimal for their prices, that is, on the concave envelope of what each client's length
    earns; the few tokens left between two envelope points are then given greedily. Where drafting earns
    less than its time costs, the grant is zero. Needs `Refinements.timing`; `survival` is used where it is
    given.
    """

    def __init__(self, utility: AlphaFair | None = None, *, deadlines: int = 16, rescan: int = 32) -> None:
        """Every `rescan`-th allocation chooses the deadline among `deadlines` candidates."""
        if deadlines < 1 or rescan < 1:
            raise ValueError(f"deadlines and rescan must be at least 1, got {deadlines} and {rescan}")
        self._utility = utility or AlphaFair()
        self._deadlines, self._rescan = deadlines, rescan
        self._age = 0
        self._chosen: float | None = None

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
        lengths = np.arange(min(int(caps.max()), budget) + 1)
        earned = _expected(acceptance, lengths, refinements.survival)
        worth = weights * np.exp(np.minimum(self._utility.log_gradient(goodput), 600.0))
        earned *= (worth / max(float(worth.max()), 1e-300))[:, None]
        allowed = (lengths <= caps[:, None]) & (lengths >= floors[:, None])
        arrivals = timing.delay_seconds[:, None] + lengths * timing.draft_seconds[:, None]
        if self._chosen is None or self._age >= self._rescan:
            spread = np.quantile(arrivals[allowed], np.linspace(0, 1, self._deadlines))
            candidates = np.unique(np.concatenate([[0.0], spread]))
            self._age = 0
        else:
            candidates = np.array([self._chosen])
        self._age += 1
        grants, values, prices = _divide(candidates, earned, arrivals, allowed, timing, budget)
        best = int(values.argmax())
        self._chosen = float(candidates[best])
        return Allocation(grants[best], float(prices[best] * worth.max()), self._chosen)


def _expected(acceptance: Floats, lengths: Integers, survival: Floats | None) -> Floats:
    """Expected tokens a round, bonus included, float64 `[n, L + 1]` for each length from 0."""
    if survival is None:
        return np.asarray((1 - acceptance[:, None] ** (lengths + 1)) / (1 - acceptance[:, None]))
    gains = np.zeros((len(acceptance), len(lengths)))
    gains[:, 0] = 1
    reach = min(survival.shape[1], len(lengths) - 1)
    gains[:, 1 : reach + 1] = survival[:, :reach]
    return np.asarray(gains.cumsum(axis=1))


def _divide(
    deadlines: Floats, earned: Floats, arrivals: Floats, allowed: Flags, timing: Timing, budget: int
) -> tuple[Integers, Floats, Floats]:
    """For every deadline `[d]` the grants int64 `[d, n]`, what they earn a second, and the price."""
    rows = np.arange(earned.shape[0])
    cost = timing.verification
    grants = np.zeros((len(deadlines), earned.shape[0]), np.int64)
    values, prices = np.full(len(deadlines), -1.0), np.zeros(len(deadlines))
    lengths = np.arange(earned.shape[1])
    tokens = np.full(len(deadlines), float(earned.shape[0]))
    ratio = np.zeros(len(deadlines))
    for _ in range(_DINKELBACH_STEPS):
        verify = np.array([cost.at(amount) for amount in tokens])
        slope = np.array([cost.slope(amount) for amount in tokens])
        period = deadlines + verify
        late = np.maximum(arrivals - deadlines[:, None, None], 0) / period[:, None, None]
        every = 1 + np.ceil(late - 1e-9)
        net = (earned - (ratio * slope)[:, None, None] * (lengths + 1)) / every
        net = np.where(allowed, net, -np.inf)
        found, price = _buy(net, budget)
        turn = every[np.arange(len(deadlines))[:, None], rows, found]
        tokens = ((found + 1) / turn).sum(axis=1)
        period = deadlines + np.array([cost.at(amount) for amount in tokens])
        ratio = (earned[rows, found] / turn).sum(axis=1) / period
        better = ratio > values
        grants[better], values[better] = found[better], ratio[better]
        prices[better] = price[better] / period[better]
    return grants, values, prices


def _buy(net: Floats, budget: int) -> tuple[Integers, Floats]:
    """The lengths that maximise Σ net within the budget, at one price; net is float64 `[d, n, L + 1]`."""
    lengths = np.arange(net.shape[2])
    found = net.argmax(axis=2)
    low, high = np.zeros(len(net)), np.zeros(len(net))
    over = found.sum(axis=1) > budget
    if over.any():
        finite = np.where(np.isfinite(net), net, 0)
        high = np.where(over, finite.max(axis=(1, 2)) - finite.min(axis=(1, 2)), 0)
        for _ in range(_PRICE_STEPS):
            middle = (low + high) / 2
            tried = (net - middle[:, None, None] * lengths).argmax(axis=2)
            dear = tried.sum(axis=1) > budget
            low, high = np.where(dear, middle, low), np.where(dear, high, middle)
        found = (net - high[:, None, None] * lengths).argmax(axis=2)
    for row in np.flatnonzero(over):
        _spend(net[row], found[row], budget - int(found[row].sum()))
    return found, high


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
