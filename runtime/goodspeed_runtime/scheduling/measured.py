"""How long drafts, links and passes take, learnt from what arrives; whoever measures hands the seconds in.

No clock of a drafter is trusted or needed: the verifier sees when it sent a grant and when the draft came
back, and that is all that a round has to wait for.
"""

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.timing import VerificationCost

_PRIOR_WEIGHT = 0.1
_PRIOR_LENGTH = 8.0


class DraftTimeEstimator:
    """Seconds from a grant's sending to its draft's arrival, as a line in the draft's length, per client.

    Least squares that forget: what is older than some 1/(1 − memory) drafts hardly counts. A drafter that
    pauses once would bend the line for long, so what is far above it counts as three times what was
    expected; one that has really become slow is believed after a few drafts. What is far below shows that
    the drafts before were the pause (a first draft reads its whole prompt): they are soon forgotten.
    """

    def __init__(
        self, *, memory: float = 0.97, prior_delay: float = 0.01, prior_draft: float = 0.005
    ) -> None:
        """The priors are seconds for an empty draft, and for each token."""
        if not 0 < memory < 1:
            raise ValueError(f"memory is {memory}; it must lie between 0 and 1, both ends excluded")
        if prior_delay < 0 or prior_draft < 0:
            raise ValueError(f"priors must not be negative, got {prior_delay} and {prior_draft}")
        self._memory = memory
        far = prior_delay + _PRIOR_LENGTH * prior_draft
        # Two observations, of an empty draft and of a long one: count, n, n², seconds, n·seconds.
        self._prior = _PRIOR_WEIGHT * np.array(
            [2.0, _PRIOR_LENGTH, _PRIOR_LENGTH**2, prior_delay + far, _PRIOR_LENGTH * far]
        )
        self._sums: Floats = np.zeros((0, 5))

    def add(self, row: int) -> None:
        """Starts a row at the priors."""
        if row >= len(self._sums):
            more = max(row + 1, 2 * len(self._sums), 16) - len(self._sums)
            self._sums = np.pad(self._sums, ((0, more), (0, 0)))
        self._sums[row] = 0

    def update(self, rows: Integers, drafted: Integers, seconds: Floats) -> None:
        """Drafts of `drafted` tokens (int64 `[m]`) came `seconds` (float64 `[m]`) after their grants.

        Rows may repeat.

        Raises:
            ValueError: a length or a time is negative or not finite.
        """
        if len(rows) and not (drafted.min() >= 0 and seconds.min() >= 0 and seconds.max() < np.inf):
            raise ValueError("lengths and seconds must be finite and not negative")
        delay, draft = self.line(rows)
        expected = delay + drafted * draft
        taken = np.minimum(seconds, 3 * expected + 0.005)
        self._sums[np.unique(rows)] *= self._memory
        self._sums[np.unique(rows[seconds < expected / 2])] *= 0.6
        one = np.ones(len(rows))
        np.add.at(self._sums, rows, np.stack([one, drafted, drafted**2, taken, drafted * taken], axis=1))

    def line(self, rows: Integers) -> tuple[Floats, Floats]:
        """(delay, seconds a token), float64 `[m]` each, neither negative."""
        count, n, nn, y, ny = (self._sums[rows] + self._prior).T
        slope = np.maximum((count * ny - n * y) / (count * nn - n * n), 0)
        # Drafts of one length tell delay and slope apart by the prior alone; but none has a delay below zero.
        seen_n, seen_y = self._sums[rows, 1], self._sums[rows, 3]
        slope = np.minimum(slope, np.where(seen_n > 0, seen_y / np.maximum(seen_n, 1e-9), np.inf))
        delay = (y - slope * n) / count
        # A line that would start below zero is the best one through zero instead.
        through_zero = delay < 0
        return np.where(through_zero, 0.0, delay), np.where(through_zero, ny / nn, slope)


class PassTimeEstimator:
    """T_V: seconds of a forward pass by the tokens in it, as smoothed means in bins half an octave apart.

    A size whose first pass is slow for a reason of its own, a kernel's compilation say, would look dear, be
    avoided, and never be measured again. So what takes longer than twice the mean counts as twice, and
    a pass far below it moves the mean half way at once: no pass is quick by accident.
    """

    def __init__(self, *, step: float = 0.05, prior: VerificationCost | None = None) -> None:
        """`prior` is the answer until two bins have been seen."""
        if not 0 < step <= 1:
            raise ValueError(f"step is {step}; it must lie in (0, 1]")
        self._step = step
        self._prior = prior or VerificationCost.linear(0.03, 0.0003)
        self._bins: dict[int, tuple[float, float, int]] = {}

    def update(self, tokens: int, seconds: float) -> None:
        """A pass of `tokens` took `seconds`.

        Raises:
            ValueError: there was no token in it, or the time is not positive and finite.
        """
        if tokens < 1 or not 0 < seconds < np.inf:
            raise ValueError(f"a pass of {tokens} tokens in {seconds} s cannot be")
        place = round(2 * np.log2(tokens))
        mean_tokens, mean_seconds, count = self._bins.get(place, (0.0, 0.0, 0))
        step = max(self._step, 1 / (count + 1))
        if count and seconds < mean_seconds / 1.5:
            step = max(step, 0.5)
        seconds = min(seconds, 2 * mean_seconds) if count else seconds
        self._bins[place] = (
            mean_tokens + step * (tokens - mean_tokens),
            mean_seconds + step * (seconds - mean_seconds),
            count + 1,
        )

    def cost(self) -> VerificationCost:
        """The curve through the bins' means, made not to fall: more tokens never cost less."""
        if len(self._bins) < 2:
            return self._prior
        tokens, seconds, counts = zip(*(self._bins[place] for place in sorted(self._bins)), strict=True)
        weights = np.minimum(counts, 1 / self._step)
        return VerificationCost(tuple(tokens), tuple(_rising(np.array(seconds), weights).tolist()))


def _rising(values: Floats, weights: Floats) -> Floats:
    """The nearest values that do not fall, by weighted least squares: neighbours that do are pooled."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        block = (float(value), float(weight), 1)
        while blocks and blocks[-1][0] >= block[0]:
            before, heavy, members = blocks.pop()
            total = heavy + block[1]
            block = ((before * heavy + block[0] * block[1]) / total, total, members + block[2])
        blocks.append(block)
    return np.repeat([block[0] for block in blocks], [block[2] for block in blocks])
