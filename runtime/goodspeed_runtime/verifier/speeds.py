"""How long drafts, links and passes take here and now, learnt from what comes in.

No clock of a drafter is trusted or compared with ours. The verifier sees when it
sent a grant and when the draft came; the drafter says how long it held the grant
by its own clock; the rest was the round trip.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

import numpy as np
import numpy.typing as npt

from goodspeed_runtime.scheduling.estimators import GoodputEstimator
from goodspeed_runtime.scheduling.measured import DraftTimeEstimator, PassTimeEstimator
from goodspeed_runtime.scheduling.timing import Timing, VerificationCost

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_TRIP_STEP = 0.1


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """How long a round took.

    Attributes:
        tokens: fed to the target.
        pass_seconds: of the forward pass, the verification and the work on the host beside them.
        seconds: since the last round's verdicts, or since its first work came in where that was later.
        elapsed: since the last round's pass was over, or since there was any sequence at all.
    """

    tokens: int
    pass_seconds: float
    seconds: float
    elapsed: float


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Drafts that were answered in a round, one entry each.

    Attributes:
        rows: int64 `[m]`, of the drafters.
        sent: int64 `[m]`, tokens in the drafts as they came.
        seconds: float64 `[m]`, from the grant's sending to the draft's arrival.
        held: float64 `[m]`, how much of that the drafter had it.
    """

    rows: Integers
    sent: Integers
    seconds: Floats
    held: Floats


class Speeds:
    """Estimates in seconds: one row a drafter for times, one row an account for goodput."""

    def __init__(self, goodput_step: float) -> None:
        self._goodput = GoodputEstimator(step=goodput_step)
        self._held = DraftTimeEstimator(prior_delay=0.001, prior_draft=0.001)
        self._passes = PassTimeEstimator()
        self._trips: Floats = np.zeros(0)

    def add(self, row: int) -> None:
        """Starts a drafter at the priors."""
        self._held.add(row)
        if row >= len(self._trips):
            self._trips = np.pad(self._trips, (0, row + 16 - len(self._trips)))
        self._trips[row] = np.nan

    def add_account(self, row: int) -> None:
        """Starts an account at the mean of those present."""
        self._goodput.add(row)

    def remove_account(self, row: int) -> None:
        """Forgets an account."""
        self._goodput.remove(row)

    def earned(self, rows: Integers, committed: Integers, active: Integers, times: RoundTimes) -> None:
        """What accounts got in a round, rows repeated; those in ``active`` without an entry got nothing."""
        self._passes.update(times.tokens, times.pass_seconds)
        everyone = np.concatenate([rows, active])
        tokens = np.concatenate([committed / max(times.seconds, 1e-6), np.zeros(len(active))])
        if len(everyone):
            self._goodput.update(everyone, tokens)

    def arrived(self, arrivals: Arrivals) -> None:
        """Learns from one round's drafts."""
        if not len(arrivals.rows):
            return
        held = np.minimum(arrivals.held, arrivals.seconds)
        self._held.update(arrivals.rows, arrivals.sent, held)
        trips = self._trips.tolist()
        for row, trip in zip(arrivals.rows.tolist(), (arrivals.seconds - held).tolist(), strict=True):
            old = trips[row]
            # A pause of the network must not look like a longer way, nor its end take long to show.
            step = 0.5 if trip < old / 2 else _TRIP_STEP
            trips[row] = trip if isnan(old) else old + step * (min(trip, 3 * old + 0.005) - old)
        self._trips[:] = trips

    def goodput(self, rows: Integers) -> Floats:
        """X of accounts in tokens per second, float64 `[m]`."""
        return self._goodput.estimates(rows)

    def round_trips(self, rows: Integers) -> Floats:
        """Seconds from a grant to its draft less what the drafter took, float64 `[m]`."""
        return np.nan_to_num(self._trips[rows], nan=0.01)

    def drafting(self, rows: Integers) -> tuple[Floats, Floats]:
        """Of drafters: seconds to an empty draft's arrival, and for each token more, float64 `[m]` each."""
        delay, token = self._held.line(rows)
        return delay + self.round_trips(rows), token

    def passes(self) -> VerificationCost:
        """T_V."""
        return self._passes.cost()

    def timing(self, rows: Integers) -> Timing:
        """What the drafters' next drafts will cost."""
        delay, token = self.drafting(rows)
        return Timing(token, delay, self.passes())
