"""How far drafts survive, position by position: one geometric α per client is the paper's simplification.

Acceptance often falls or rises along a draft, and what is accepted need not be what the soft ratio promises.
Each position has a factor on the client's α̂. Where its tests are many they decide the factor; where they
are few it stays near what the positions before it say, and without any near 1, which is the geometric model.
A client whose acceptance rises along its drafts keeps the geometric model.
"""

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats, Integers

# What a round is still worth after one more of the client's, and how many acceptances the guess is worth.
_MEMORY = 0.995
_SHRINKAGE = 20.0
# The most that any position may promise, so that mu has a limit, and the steepest fall taken to go on.
_MOST, _STEEPEST = 0.995, 0.7


class SurvivalEstimator:
    """Counts, client by client, how often position j passed and how often α̂ would have had it pass.

    Since the counts are relative to α̂, a change of prompt domain moves all positions as soon as α̂ moves.
    """

    def __init__(self, *, longest: int) -> None:
        """`longest` is the longest draft there can be."""
        if longest < 1:
            raise ValueError(f"longest is {longest}; it must be at least 1")
        self._longest = longest
        self._promised: Floats = np.zeros((0, longest))
        self._accepted: Floats = np.zeros((0, longest))

    def add(self, row: int) -> None:
        """Starts a row without any evidence."""
        if row >= len(self._promised):
            more = np.zeros((max(row + 1, 2 * len(self._promised), 16) - len(self._promised), self._longest))
            self._promised = np.concatenate([self._promised, more])
            self._accepted = np.concatenate([self._accepted, more])
        self._promised[row] = self._accepted[row] = 0

    def update(self, rows: Integers, accepted: Integers, drafted: Integers, acceptance: Floats) -> None:
        """One round: of `drafted` tokens the first `accepted` were, all int64 `[m]`; rows may repeat.

        `acceptance`, float64 `[m]`, is what α̂ was when they were drafted.
        """
        place = np.arange(self._longest)
        passed = (place < accepted[:, None]) & (place < drafted[:, None])
        tested = (place <= accepted[:, None]) & (place < drafted[:, None])
        had = np.unique(rows[drafted > 0])
        self._promised[had] *= _MEMORY
        self._accepted[had] *= _MEMORY
        np.add.at(self._promised, rows, tested * acceptance[:, None])
        np.add.at(self._accepted, rows, passed)

    def survival(self, rows: Integers, acceptance: Floats) -> Floats:
        """Float64 `[m, longest]`, falling: the chance that positions 0..s all pass, given α̂ `[m]`."""
        all_accepted, all_promised = self._accepted[rows], self._promised[rows]
        factors = np.empty((len(rows), self._longest))
        guess = before = np.ones(len(rows))
        for place in range(self._longest):
            accepted, promised = all_accepted[:, place], all_promised[:, place]
            factor = (accepted + _SHRINKAGE * guess) / (promised + _SHRINKAGE)
            factors[:, place] = factor
            # A fall goes on beyond where it was seen.
            fall = np.clip(factor / before, _STEEPEST, 1) if place else 1.0
            guess, before = np.minimum(factor * fall, 1), factor
        # Where acceptance rises, counts would make the first tokens look poor, and so keep a client from the
        # later ones that are worth drafting: its mean, which the geometric model takes, does not.
        later = all_accepted[:, 1:].sum(axis=1) * all_promised[:, 0]
        rises = later > all_accepted[:, 0] * all_promised[:, 1:].sum(axis=1)
        factors[rises] = 1
        return np.asarray(np.cumprod(np.minimum(acceptance[:, None] * factors, _MOST), axis=1))
