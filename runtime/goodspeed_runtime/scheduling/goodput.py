"""What a division of the budget is expected to yield, and how evenly a yield is spread."""

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.timing import Timing
from goodspeed_runtime.scheduling.utility import AlphaFair


def expected_goodput(acceptance: Floats, lengths: Integers) -> Floats:
    """mu(S) = (1 − α^(S+1))/(1 − α), tokens a round with the bonus, elementwise (PAPER §III)."""
    return np.asarray((1 - acceptance ** (lengths + 1)) / (1 - acceptance))


def expected_by_length(acceptance: Floats, lengths: Integers, survival: Floats | None) -> Floats:
    """Tokens a round, bonus included, float64 `[n, L]` for each of `lengths` (int64 `[L]`, 0, 1, 2, ...).

    `survival` as in `Refinements`; mu(S) of `acceptance` where it is None.
    """
    if survival is None:
        return expected_goodput(acceptance[:, None], lengths)
    gains = np.zeros((len(acceptance), len(lengths)))
    gains[:, 0] = 1
    reach = min(survival.shape[1], len(lengths) - 1)
    gains[:, 1 : reach + 1] = survival[:, :reach]
    return np.asarray(gains.cumsum(axis=1))


def barrier_seconds(timing: Timing, lengths: Integers) -> float:
    """Seconds of a round that waits for every draft of `lengths` (int64 `[n]`) and verifies them at once."""
    slowest = float((timing.delay_seconds + lengths * timing.draft_seconds).max())
    return slowest + timing.verification.at(float(lengths.sum() + len(lengths)))


def jain_index(goodput: Floats) -> float:
    """(Σ x)² / (n·Σ x²): 1 when all are equal, 1/n when one has everything (Jain, Chiu and Hawe 1984)."""
    squares = float((goodput**2).sum())
    return float(goodput.sum()) ** 2 / (len(goodput) * squares) if squares else 1.0


def equivalent_goodput(goodput: Floats, weights: Floats, utility: AlphaFair) -> float:
    """The goodput that, had by everyone, would be worth the same utility: the geometric mean at α = 1."""
    mean = float((weights * utility.value(goodput)).sum() / weights.sum())
    if utility.alpha == 1:
        return float(np.exp(mean))
    return float((mean * (1 - utility.alpha)) ** (1 / (1 - utility.alpha)))
