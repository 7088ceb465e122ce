"""An allocator that is asked only while drafting was not found to be worse than plain decoding."""

import numpy as np

from goodspeed_runtime.scheduling.allocation import NO_REFINEMENTS, Allocation, Allocator, Refinements
from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.trial import PlainTrial


class TriedAllocator:
    """Grants nothing while a trial wants everyone decoded plainly, and something while it wants drafts.

    The latter where the allocator itself would grant nothing: the times that it goes by may be wrong, and
    while nothing is drafted nobody measures them again.
    """

    def __init__(self, usual: Allocator, insisting: Allocator, trial: PlainTrial) -> None:
        """`insisting` grants wherever there is budget, whatever its time costs."""
        self._usual, self._insisting, self._trial = usual, insisting, trial

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
        """See `Allocator.allocate`. The price is 0 while nobody drafts: more budget would bring nothing."""
        if self._trial.plain:
            return Allocation(np.zeros_like(caps), 0.0, 0.0)
        allocators = (self._usual, self._insisting) if self._trial.insists else (self._usual,)
        for allocator in allocators:
            allocation = allocator.allocate(
                weights=weights,
                acceptance=acceptance,
                goodput=goodput,
                caps=caps,
                budget=budget,
                refinements=refinements,
            )
            if allocation.grants.any():
                break
        return allocation
