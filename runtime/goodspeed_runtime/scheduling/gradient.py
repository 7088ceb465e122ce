"""GOODSPEED-SCHED: grants from the gradient of utility; the solving itself is in `marginals`."""

import numpy as np

from goodspeed_runtime.scheduling.allocation import NO_REFINEMENTS, Allocation, Refinements, check
from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.marginals import solve, solve_survival
from goodspeed_runtime.scheduling.utility import AlphaFair


class GradientAllocator:
    """Maximises Σ w·U'(X)·mu(S) subject to Σ S ≤ C, exactly (PAPER, equation 5).

    A token whose gain is zero (α̂ = 0 or w = 0) is never granted, even when budget is left.
    """

    def __init__(self, utility: AlphaFair | None = None) -> None:
        self.utility = utility or AlphaFair()

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
        """See `Allocator.allocate`; the shadow price is the largest gain that was not taken."""
        if not len(weights) == len(acceptance) == len(goodput) == len(caps):
            check(weights=weights, acceptance=acceptance, goodput=goodput, caps=caps, budget=budget)
        with np.errstate(divide="ignore", invalid="ignore"):  # log 0 = −inf is a gain that is never taken
            log_values = np.log(weights) + self.utility.log_gradient(goodput)
            log_acceptance = np.log(acceptance)
            floors, survival = refinements.floors, refinements.survival
            log_survival = None if survival is None else np.log(survival)
        # The logarithms of all that is allowed pass this; what does not is looked at closely, to name the
        # culprit.
        if not (
            len(caps)
            and budget >= 0
            and log_values.max() < np.inf
            and log_acceptance.max() < 0
            and np.minimum(goodput, caps).min() >= 0
        ):
            check(weights=weights, acceptance=acceptance, goodput=goodput, caps=caps, budget=budget)
        if floors is not None:
            floors = np.minimum(floors, caps)
            caps, budget = caps - floors, budget - int(floors.sum())
            if budget < 0:
                raise ValueError(f"floors take {-budget} tokens more than the budget; lower them or raise it")
        if log_survival is not None:
            solution = solve_survival(log_values, log_survival, caps, budget, floors)
        elif floors is not None:
            solution = solve(
                log_values + floors * np.maximum(log_acceptance, -1e300), log_acceptance, caps, budget
            )
        else:
            solution = solve(log_values, log_acceptance, caps, budget)
        if floors is None:
            return solution
        return Allocation(solution.grants + floors, solution.shadow_price)


class SumThroughputAllocator(GradientAllocator):
    """Greedy for the weighted sum of goodput, whoever gets it (as in TETRIS): the price of fairness shows."""

    def __init__(self) -> None:
        super().__init__(AlphaFair(0.0))
