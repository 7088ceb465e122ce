"""The best long-run goodput there is, x*, for acceptance that never changes: where the gradient should go.

Over the convex hull of {mu(S): Σ S ≤ C} (PAPER, Theorems 1 to 4) each client's goodput is mu made straight
between whole lengths, and the lengths, now real, still sum to C. So x* has one price λ: every client stops
where w·U'(x)·α^j = λ.
"""

import numpy as np

from goodspeed_runtime.scheduling.allocation import NO_REFINEMENTS, Refinements
from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.goodput import expected_by_length
from goodspeed_runtime.scheduling.utility import AlphaFair


def optimal_goodput(
    *,
    weights: Floats,
    acceptance: Floats,
    caps: Integers,
    budget: int,
    utility: AlphaFair,
    refinements: Refinements = NO_REFINEMENTS,
) -> Floats:
    """x*, float64 `[n]` in tokens a round; arguments as in `Allocator.allocate`, with the true α in (0, 1).

    Of the refinements, floors and the true survival count.

    Raises:
        ValueError: The utility has α = 0, whose optimum is not unique.
    """
    if utility.alpha == 0:
        raise ValueError("the sum of goodput has no unique optimum; use an alpha above 0")
    longest = min(int(caps.max()), budget) if budget else 0
    steps = np.diff(expected_by_length(acceptance, np.arange(longest + 1), refinements.survival), axis=1)
    steps[np.arange(longest) >= caps[:, None]] = 0
    before = 1 + np.cumsum(steps, axis=1) - steps
    positive = steps > 0
    floors = np.zeros_like(caps) if refinements.floors is None else refinements.floors
    granted = positive & (np.arange(longest) < floors[:, None])

    def filled(log_price: float) -> Floats:
        log_stop = np.log(weights)[:, None] + np.log(np.where(positive, steps, 1)) - log_price
        stop = np.exp(np.minimum(log_stop / utility.alpha, 700.0))
        with np.errstate(over="ignore"):  # a vanishing step is either filled or not
            part = (stop - before) / np.where(positive, steps, 1)
        return np.where(granted, 1, np.where(positive, np.clip(part, 0, 1), 0))

    low, high = -700.0, 700.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if filled(middle).sum() > budget else (low, middle)
    return np.asarray(1 + (filled(high) * steps).sum(axis=1))
