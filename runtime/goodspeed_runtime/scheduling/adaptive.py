"""A better α̂ than the paper's fixed step: quick after a change of prompt domain, quiet while nothing changes.

While nothing changes the best estimate is the plain mean since the last change, each position counting
once. A fast average runs beside it; when the two differ by more than chance allows, the mean starts anew
from the fast one.
"""

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, by_client


class AdaptiveAcceptanceEstimator(AcceptanceEstimator):
    """The mean ratio since the last change, with a test for change after every round.

    Ratios of one domain are taken to be independent; `threshold` is how many standard deviations of the fast
    average count as a change, and `longest` how many positions the mean remembers at most.
    """

    def __init__(
        self,
        *,
        prior: float = 0.6,
        idle_step: float = 0.01,
        floor: float = 0.01,
        ceiling: float = 0.99,
        window: float = 40.0,
        longest: float = 1000.0,
        threshold: float = 3.5,
    ) -> None:
        """`window` is the fast average's length in drafted positions."""
        if not 1 <= window < longest or not threshold > 0:
            raise ValueError(
                f"need 1 <= window < longest and threshold > 0, got {window}, {longest}, {threshold}"
            )
        super().__init__(prior=prior, idle_step=idle_step, floor=floor, ceiling=ceiling)
        self._window, self._longest, self._threshold = window, longest, threshold
        self._mass: Floats = np.zeros(0)
        self._fast: Floats = np.zeros(0)
        self._variance: Floats = np.zeros(0)

    def add(self, row: int, estimate: float | None = None) -> None:
        """Starts a row at `estimate`, or at the prior, which is then worth a few positions."""
        super().add(row, estimate)
        more = len(self._estimate) - len(self._mass)
        self._mass, self._fast, self._variance = (
            np.pad(column, (0, more)) for column in (self._mass, self._fast, self._variance)
        )
        self._mass[row], self._fast[row], self._variance[row] = 4.0, self._estimate[row], 0.08

    def update(self, rows: Integers, ratio_sums: Floats, drafted: Integers) -> None:
        """See `AcceptanceEstimator.update`."""
        self._check(ratio_sums, drafted)
        clients, (sums, counts) = by_client(rows, ratio_sums, drafted)
        seen = counts > 0
        idle = clients[~seen]
        if len(idle):
            self._estimate[idle] += self._idle_step * (self._prior - self._estimate[idle])
            clients, sums, counts = clients[seen], sums[seen], counts[seen]
        mean, old, mass = sums / counts, self._estimate[clients], self._mass[clients] + counts
        fast_step = 1 - np.exp(-counts / self._window)
        fast = self._fast[clients] + fast_step * (mean - self._fast[clients])
        # The spread of one ratio, from how far the round's mean lay from the estimate.
        variance = self._variance[clients]
        variance = variance + np.minimum(counts / 200.0, 0.2) * (counts * (mean - old) ** 2 - variance)
        variance = np.minimum(np.maximum(variance, 0.01), 0.25)
        new = old + counts / mass * (mean - old)
        noise = np.sqrt(variance * (1 / (2 * self._window) + 1 / mass))
        changed = (np.abs(fast - new) > self._threshold * noise) & (mass > self._window / 2)
        self._estimate[clients] = np.clip(np.where(changed, fast, new), self._floor, self._ceiling)
        self._mass[clients] = np.where(changed, self._window / 2, np.minimum(mass, self._longest))
        self._fast[clients], self._variance[clients] = fast, variance
