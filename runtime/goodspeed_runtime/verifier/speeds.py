"""What goodput per second needs beyond the paper: how long drafts, links and passes take here and now."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from goodspeed_runtime.scheduling.estimators import GoodputEstimator
from goodspeed_runtime.scheduling.measured import DraftTimeEstimator, PassTimeEstimator
from goodspeed_runtime.scheduling.timing import Timing


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """How long a round took.

    Attributes:
        tokens: fed to the target.
        pass_seconds: of the forward pass and the verification.
        seconds: since the last round's verdicts, or since its first work came in where that was later.
    """

    tokens: int
    pass_seconds: float
    seconds: float


class Speeds:
    """Estimates in seconds, one row a client as in the other estimators."""

    def __init__(self, goodput_step: float) -> None:
        self._goodput = GoodputEstimator(step=goodput_step)
        self._drafts = DraftTimeEstimator()
        self._passes = PassTimeEstimator()

    def add(self, row: int) -> None:
        """Starts a client at the priors."""
        self._goodput.add(row)
        self._drafts.add(row)

    def remove(self, row: int) -> None:
        """Forgets a client."""
        self._goodput.remove(row)

    def learn(
        self,
        rows: npt.NDArray[np.int64],
        drafted: npt.NDArray[np.int64],
        committed: npt.NDArray[np.int64],
        draft_seconds: npt.NDArray[np.float64],
        *,
        active: Many[int],
        times: RoundTimes,
    ) -> None:
        """One round's drafts, one row each; clients in `active` without one have got nothing this time."""
        self._passes.update(times.tokens, times.pass_seconds)
        if len(rows):
            self._drafts.update(rows, drafted, draft_seconds)
        everyone = np.concatenate([rows, np.asarray(active, dtype=np.int64)])
        earned = np.concatenate([committed / max(times.seconds, 1e-6), np.zeros(len(active))])
        if len(everyone):
            self._goodput.update(everyone, earned)

    def goodput(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """X in tokens per second, float64 `[m]`."""
        return self._goodput.estimates(rows)

    def timing(self, rows: npt.NDArray[np.int64]) -> Timing:
        """What the rows' next drafts will cost."""
        delay, draft = self._drafts.line(rows)
        return Timing(draft, delay, self._passes.cost())
