"""How much more accounts get in one way of serving than in another, and how sure that is.

Both ways take turns, in pairs of blocks. What is compared is the objective itself, the sum over accounts of
the utility of tokens a second, to first order at the mean of both ways: a weighted mean of log ratios.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats

LEAST_GAIN = 0.02
"""In log goodput: what is less is not worth a change."""
_SURE = (
    31.82, 6.965, 4.541, 3.747, 3.365, 3.143, 2.998, 2.896, 2.821, 2.764, 2.718, 2.681, 2.650, 2.624, 2.602,
    2.583, 2.567, 2.552, 2.539, 2.528, 2.518, 2.508, 2.500,
)  # fmt: skip
"""Student's t that is exceeded once in a hundred times, by degrees of freedom from 1 on."""
_PRIOR_TOKENS = 1.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A block of rounds in each of two ways.

    Attributes:
        tokens: float64 `[2, rows]`, by way and account.
        sequence_seconds: float64 `[2, rows]`, seconds times sequences under way.
        seconds: of both blocks.
    """

    tokens: Floats
    sequence_seconds: Floats
    seconds: float


@dataclass(frozen=True, slots=True)
class Advantage:
    """Of the second way over the first.

    Attributes:
        gain: the weighted mean over accounts of log goodput in the second way less that in the first.
        doubt: how far it may be off; infinite where one pair is all there is.
    """

    gain: float
    doubt: float

    @property
    def better(self) -> int | None:
        """The way that is surely better, by more than `LEAST_GAIN`; None where that is not known."""
        return int(self.gain > 0) if abs(self.gain) > max(self.doubt, LEAST_GAIN) else None

    @property
    def equal(self) -> bool:
        """Whether neither can be better by more than `LEAST_GAIN`."""
        return abs(self.gain) + self.doubt < LEAST_GAIN


def advantage(pairs: Sequence[Pair], weights: Floats, alpha: float) -> Advantage:
    """From pairs of blocks, one or more, that have as many rows as there are weights, or fewer.

    Rates are those of all blocks together, so that a short block of few tokens bends no logarithm; what is
    left of that, and the doubt, come from leaving out one pair at a time (the jackknife). An account that was
    there for part of the time counts for that part.

    Args:
        pairs: of blocks.
        weights: float64 `[rows]`, w in w·U(X).
        alpha: of the α-fair U.
    """
    rows, count = len(weights), len(pairs)
    tokens, seconds = np.zeros((2, count, 2, rows))
    for place, pair in enumerate(pairs):
        size = min(rows, pair.tokens.shape[1])
        tokens[place, :, :size] = pair.tokens[:, :size]
        seconds[place, :, :size] = pair.sequence_seconds[:, :size]
    all_tokens, all_seconds = tokens.sum(axis=0), seconds.sum(axis=0)
    # Of an account that one of the ways never had there is nothing to compare.
    there = (all_seconds.min(axis=0) > 0) & (all_tokens.sum(axis=0) > 0) & (weights > 0)
    if not there.any():
        return Advantage(0.0, np.inf)
    tokens, seconds = tokens[:, :, there], seconds[:, :, there]
    all_tokens, all_seconds = all_tokens[:, there], all_seconds[:, there]
    presence = np.minimum(all_seconds.sum(axis=0) / sum(pair.seconds for pair in pairs), 1)
    got = all_tokens.sum(axis=0)
    shares = weights[there] * presence * (got / got.max()) ** (1 - alpha)
    shares /= shares.sum()
    mean = got / all_seconds.sum(axis=0)

    def gain(tokens: Floats, seconds: Floats) -> Floats:
        rates = (tokens + _PRIOR_TOKENS) / (seconds + _PRIOR_TOKENS / mean)
        return np.asarray(np.log(rates[..., 1, :] / rates[..., 0, :]) @ shares)

    whole = float(gain(all_tokens, all_seconds))
    if count < 2:
        return Advantage(whole, np.inf)
    without = gain(all_tokens - tokens, all_seconds - seconds)
    spread = float(np.sqrt((count - 1) * ((without - without.mean()) ** 2).mean()))
    unbent = count * whole - (count - 1) * float(without.mean())
    return Advantage(unbent, _SURE[min(count - 1, len(_SURE)) - 1] * spread)
