"""GOODSPEED-SCHED: grants from the gradient of utility; the solving itself is in `marginals`."""

import numpy as np

from goodspeed_runtime.scheduling.allocation import Allocation, Floats, Integers, check
from goodspeed_runtime.scheduling.marginals import solve
from goodspeed_runtime.scheduling.utility import AlphaFair


class GradientAllocator:
    """Maximises Σ w·U'(X)·mu(S) subject to Σ S ≤ C, exactly (PAPER, equation 5).

    A token whose gain is zero (α̂ = 0 or w = 0) is never granted, even when budget is left.
    """

    def __init__(self, utility: AlphaFair | None = None) -> None:
        self.utility = utility or AlphaFair()

    def allocate(
        self, *, weights: Floats, acceptance: Floats, goodput: Floats, caps: Integers, budget: int
    ) -> Allocation:
        """See `Allocator.allocate`; the shadow price is the largest gain that was not taken."""
        check(weights=weights, acceptance=acceptance, goodput=goodput, caps=caps, budget=budget)
        with np.errstate(divide="ignore"):  # log 0 is −inf, which is a gain that is never taken
            log_values = np.log(weights) + self.utility.log_gradient(goodput)
            log_acceptance = np.log(acceptance)
        return solve(log_values, log_acceptance, caps, budget)
