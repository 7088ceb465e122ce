"""What a fleet would gain by other attachments or budgets: utility of tokens per second.

A forecast is a ratio. The same model says what every drafter gets now and what it would get then; their ratio
multiplies what was observed, so that what the model has wrong in both cancels.
"""

from __future__ import annotations

import numpy as np

from goodspeed_runtime.rebalancing.costs import PassCosts
from goodspeed_runtime.rebalancing.cycles import Runners, rates
from goodspeed_runtime.rebalancing.earnings import BUSY
from goodspeed_runtime.rebalancing.observation import Observation
from goodspeed_runtime.rebalancing.shares import LARGEST_ACCEPTANCE, Demand
from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.utility import AlphaFair

_TRUST = 0.1
"""By how much, as a ratio's logarithm, measured waits must explain rates better to replace the model's."""
_LEAST_TOKENS = 1e-3


class Forecast:
    """What drafters would earn elsewhere, calibrated on what they earn now."""

    def __init__(self, observation: Observation, rows: Integers, demand: Demand, fairness: float) -> None:
        """The model of a fleet as it is.

        Args:
            observation: of the fleet.
            rows: int64 `[m]`, its drafters that are attached to a cell.
            demand: of these drafters.
            fairness: α of the utility.
        """
        cells, drafters = observation.cells, observation.drafters
        self._demand, self._utility = demand, AlphaFair(fairness)
        self._barrier, self._count = observation.barrier, len(cells)
        self._costs = PassCosts(cells.curves, cells.overheads)
        self._here, self._budgets = drafters.cells[rows], cells.budgets
        self._sequences = drafters.sequences[rows]
        self._acceptance = np.clip(drafters.acceptance[rows], 0.0, LARGEST_ACCEPTANCE)
        self._caps = drafters.caps[rows].astype(np.float64)
        self._drafts = drafters.drafts.of(rows)
        self._taking_part = np.minimum(self._sequences, 1.0)
        self._present = drafters.present[rows]
        self._weights = drafters.weights[rows]
        self._observed = drafters.rates[rows] / np.maximum(self._present, BUSY)
        self._busy = (np.minimum(self._sequences, self._present) > BUSY) & (self._observed > 0)
        self._tokens = self._drafts.shares * self._drafts.lengths
        self._shares = demand.solve(self._here, self._budgets).tokens
        self._now, self._taken = self._calibrated(cells.waits)

    def _runners(self, cells: Integers, tokens: Floats) -> Runners:
        lengths = np.maximum(tokens, 1.0)
        drafts = self._drafts
        # Observed with drafts of the observed length; each token more takes its time.
        ways = drafts.seconds + (lengths - np.maximum(drafts.lengths, 1.0)) * drafts.token_seconds
        return Runners(
            cells=cells,
            sequences=self._sequences,
            acceptance=self._acceptance,
            lengths=lengths,
            shares=np.minimum(tokens, 1.0),
            ways=np.maximum(ways, 0.0),
        )

    def _rates(
        self, cells: Integers, tokens: Floats, begin: Floats, waits: Floats | None = None
    ) -> tuple[Floats, Floats]:
        runners = self._runners(cells, tokens)
        return rates(runners, self._costs, begin, barrier=self._barrier, waits=waits)

    def _calibrated(self, waits: Floats) -> tuple[Floats, Floats]:
        """The model's rates now, and its seconds of a pass: in each cell as explains best what is seen.

        The search begins with full rounds or with plain ones; where both lead far off, measured waits take
        the place of the model's.
        """
        plain = self._total(self._here, self._sequences)
        fed = plain + self._total(self._here, self._sequences * self._tokens)
        starts = [self._costs.at(fed)[0], self._costs.at(plain)[0]]
        found, taken = self._rates(self._here, self._tokens, starts[0])
        if self._barrier or not self._busy.any():
            return found, taken
        error = self._errors(found)
        for start, known, margin in ((starts[1], None, 0.0), (starts[0], waits, _TRUST)):
            other, seconds = self._rates(self._here, self._tokens, start, known)
            errors = self._errors(other)
            better = errors < error - margin
            error, taken = np.where(better, errors, error), np.where(better, seconds, taken)
            found = np.where(better[self._here], other, found)
        return found, taken

    def _errors(self, modelled: Floats) -> Floats:
        """How far the model's rates are from the observed ones in each cell: mean of |log ratio|."""
        weight = self._sequences * self._busy
        modelled = modelled / np.maximum(self._taking_part, BUSY)
        ratio = np.maximum(modelled, _LEAST_TOKENS) / np.maximum(self._observed, _LEAST_TOKENS)
        return self._mean(self._here, np.abs(np.log(ratio)), weight)

    def _mean(self, cells: Integers, values: Floats, weight: Floats) -> Floats:
        return self._total(cells, values * weight) / np.maximum(self._total(cells, weight), 1e-9)

    def _total(self, cells: Integers, values: Floats) -> Floats:
        return np.asarray(np.bincount(cells, values, self._count), np.float64)

    def rates(self, cells: Integers, budgets: Integers) -> Floats:
        """Tokens per second of each drafter while busy, float64 `[m]`, were it in `cells` (int64 `[m]`)."""
        then = self._demand.solve(cells, budgets).tokens
        # The demand is of all of a drafter's sequences; a draft is of one.
        single = np.maximum(self._sequences, 1e-9)
        grown = self._tokens * then / np.maximum(self._shares, 1e-9)
        tokens = np.where(self._shares > _LEAST_TOKENS * single, grown, then / single)
        # Rounds begin as those are that a cell's sequences are in now.
        begin = self._mean(cells, self._taken[self._here], self._sequences)
        begin = np.where(begin > 0, begin, self._taken)
        modelled, _ = self._rates(cells, np.minimum(tokens, self._caps), begin)
        touched = np.zeros(self._count, np.bool_)
        moved = cells != self._here
        touched[cells[moved]] = touched[self._here[moved]] = True
        touched |= budgets != self._budgets
        ratio = np.where(touched[cells], modelled / np.maximum(self._now, 1e-9), 1.0)
        return np.asarray(self._observed * ratio)

    def gains(self, cells: Integers, budgets: Integers) -> Floats:
        """w·[U(x then) − U(x now)] of each drafter, float64 `[m]`, x in tokens per second; 0 of idle ones."""
        then, now = self.rates(cells, budgets), self._observed
        gains = self._present * self._weights * (self._utility.value(then) - self._utility.value(now))
        return np.where(self._busy, gains, 0.0)
