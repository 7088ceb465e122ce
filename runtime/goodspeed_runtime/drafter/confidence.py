"""How likely a drafted token is to stand, by the drafter's own confidence, calibrated by verdicts.

Whether a token is drafted at all depends on its q and on the tokens before it,
never on which token was drawn: leaving out unlikely *draws* would bend the
output, leaving out unsure *positions* does not.
"""

from __future__ import annotations

from collections.abc import Sequence

BINS = 12
_MEMORY = 0.998
_PRIOR_TESTS = 4.0


class Calibration:
    """Chance of standing by confidence, as means in bins that forget."""

    def __init__(self) -> None:
        self._tested = [_PRIOR_TESTS] * BINS
        self._stood = [_PRIOR_TESTS * (place + 0.5) / BINS for place in range(BINS)]

    def learn(self, confidence: float, stood: bool) -> None:
        """A token of this confidence, in [0, 1], was tested."""
        place = _place(confidence)
        self._tested[place] = _MEMORY * self._tested[place] + 1
        self._stood[place] = _MEMORY * self._stood[place] + stood

    def chance(self, confidence: float) -> float:
        """That a token of this confidence stands, those before it standing."""
        place = _place(confidence)
        return self._stood[place] / self._tested[place]

    def worth(self, confidence: Sequence[float], least_chance: float) -> int:
        """How many of the first tokens are worth sending: all, or those before one of less than that chance.

        At least one, if there is one: what is never tested is never known.
        """
        survival = 1.0
        for index, each in enumerate(confidence):
            survival *= self.chance(each)
            if survival < least_chance and index:
                return index
        return len(confidence)

    def pays(self, confidence: Sequence[float], token_cost: float) -> bool:
        """Whether a further token, as likely to stand as the last one, adds to the goodput per second.

        With s tokens a round commits μ = 1 + Σ survival in a time of 1 + s·cost; a token more is worth its
        time while survival/cost exceeds μ over that time.
        """
        survival, expected = 1.0, 1.0
        for each in confidence:
            survival *= self.chance(each)
            expected += survival
        ahead = survival * (self.chance(confidence[-1]) if confidence else 1.0)
        return ahead * (1 + len(confidence) * token_cost) >= expected * token_cost


def _place(confidence: float) -> int:
    return min(int(confidence * BINS), BINS - 1)
