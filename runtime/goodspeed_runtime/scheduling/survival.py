"""How far drafts survive, position by position: one geometric α per client is the paper's simplification.

Acceptance often falls or rises along a draft. Where a client's counts at a position are many they speak;
where they are few the estimate leans on the client's α̂.
"""

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats, Integers


class SurvivalEstimator:
    """Counts how often position j was reached and accepted; each round with a draft fades the past."""

    def __init__(self, *, longest: int, memory: float = 0.995, shrinkage: float = 20.0) -> None:
        """`shrinkage` is how many observations of a position the geometric prior is worth."""
        if longest < 1 or not 0 < memory <= 1 or not shrinkage > 0:
            raise ValueError(
                f"need longest >= 1, 0 < memory <= 1 and shrinkage > 0, got {longest}, {memory}, {shrinkage}"
            )
        self._longest, self._memory, self._shrinkage = longest, memory, shrinkage
        self._reached: Floats = np.zeros((0, longest))
        self._accepted: Floats = np.zeros((0, longest))

    def add(self, row: int) -> None:
        """Starts a row without any evidence."""
        if row >= len(self._reached):
            more = np.zeros((max(row + 1, 2 * len(self._reached), 16) - len(self._reached), self._longest))
            self._reached = np.concatenate([self._reached, more])
            self._accepted = np.concatenate([self._accepted, more])
        self._reached[row] = self._accepted[row] = 0

    def update(self, rows: Integers, accepted: Integers, drafted: Integers) -> None:
        """One round: of `drafted` tokens the first `accepted` were, all int64 `[m]`; rows may repeat."""
        place = np.arange(self._longest)
        passed = place < accepted[:, None]
        tested = (place <= accepted[:, None]) & (place < drafted[:, None])
        self._reached[rows[drafted > 0]] *= self._memory
        self._accepted[rows[drafted > 0]] *= self._memory
        np.add.at(self._reached, rows, tested)
        np.add.at(self._accepted, rows, passed & tested)

    def survival(self, rows: Integers, acceptance: Floats) -> Floats:
        """Float64 `[m, longest]`, falling: the chance that positions 0..s all pass, given α̂ `[m]`."""
        prior = self._shrinkage * acceptance[:, None]
        return np.asarray(
            np.cumprod((self._accepted[rows] + prior) / (self._reached[rows] + self._shrinkage), axis=1)
        )
