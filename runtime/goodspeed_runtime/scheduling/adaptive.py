"""A better α̂ than the paper's fixed step: quick after a change of prompt domain, quiet while nothing changes.

A fixed step must choose between the two. Here α is taken to stay as it is until, now and then, it jumps
anywhere; how likely each value is after what was seen is kept on a grid, as the forward filter of a hidden
Markov model, and its mean is the estimate. While nothing changes it narrows like a plain mean; what it did
not expect makes it widen at once.
"""

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.estimators import CEILING, FLOOR, AcceptanceEstimator, by_client

_POINTS = 48
# For a client thought poor that drafts nothing: larger, as only a draft can show that it has become better.
_IDLE_HAZARD = 0.05


class AdaptiveAcceptanceEstimator(AcceptanceEstimator):
    """The mean of α given all ratios so far, when α jumps with a small chance every round.

    Ratios of one domain are taken to be independent; how widely they spread is learnt too, client by client.
    """

    def __init__(self, *, prior: float = 0.6, hazard: float = 0.002) -> None:
        """`hazard` is the chance of a jump in a round, and `prior` what α is on average after one."""
        if not 0 < hazard < 1:
            raise ValueError(f"hazard is {hazard}; it must lie between 0 and 1, both ends excluded")
        super().__init__(prior=prior)
        self._hazard = hazard
        self._grid = np.linspace(FLOOR, CEILING, _POINTS)
        # Where a jump leads: anywhere, yet on average to the prior.
        tilt = (prior - self._grid.mean()) / max(float(self._grid.var()), 1e-12)
        spread = np.maximum(1 + tilt * (self._grid - self._grid.mean()), 0)
        self._anywhere = spread / spread.sum()
        self._belief: Floats = np.zeros((0, _POINTS))
        self._variance: Floats = np.zeros(0)

    def add(self, row: int, estimate: float | None = None) -> None:
        """Starts a row at the prior, or near `estimate`."""
        super().add(row, estimate)
        more = len(self._estimate) - len(self._belief)
        self._belief = np.pad(self._belief, ((0, more), (0, 0)))
        self._variance = np.pad(self._variance, (0, more))
        self._variance[row] = 0.08
        belief = self._anywhere
        if estimate is not None:
            belief = np.exp(-0.5 * ((self._grid - self._estimate[row]) / 0.1) ** 2)
        self._belief[row] = belief / belief.sum()

    def update(
        self, rows: Integers, ratio_sums: Floats, drafted: Integers, *, distinct: bool = False
    ) -> None:
        """See `AcceptanceEstimator.update`."""
        self._check(ratio_sums, drafted)
        clients, (sums, counts) = by_client(rows, ratio_sums, drafted, distinct=distinct)
        seen = counts > 0
        mean = sums / np.maximum(counts, 1)
        old, variance = self._estimate[clients], self._variance[clients]
        surprise = counts * (mean - old) ** 2
        # A jump would be taken for noise: what is far beyond the spread known so far counts as four of it.
        variance = variance + np.where(seen, 0.03, 0.0) * (np.minimum(surprise, 4 * variance) - variance)
        variance = np.clip(variance, 0.004, 0.25)
        belief = self._belief[clients]
        forgotten = ~seen & (old < self._prior)
        hazard = np.where(forgotten, _IDLE_HAZARD, self._hazard)[:, None]
        belief += hazard * (self._anywhere - belief)
        misfit = (mean[:, None] - self._grid) ** 2 * (counts / (2 * variance))[:, None]
        belief *= np.exp(misfit.min(axis=1, keepdims=True) - misfit)
        belief /= belief.sum(axis=1, keepdims=True)
        self._belief[clients], self._variance[clients] = belief, variance
        self._estimate[clients] = np.clip(belief @ self._grid, FLOOR, CEILING)
