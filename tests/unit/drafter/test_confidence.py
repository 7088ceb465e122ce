"""A drafter learns from verdicts how sure it may be, and ends a draft where the next token does not pay."""

from itertools import accumulate
from operator import mul

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.drafter.confidence import BINS, Calibration

CONFIDENCE = st.floats(0, 1)


@st.composite
def calibrations(draw):
    found = Calibration()
    for confidence, stood in draw(st.lists(st.tuples(CONFIDENCE, st.booleans()), max_size=30)):
        found.learn(confidence, stood)
    return found


@given(calibrations(), st.lists(CONFIDENCE, max_size=8), st.floats(0, 1.01))
def test_a_draft_ends_before_the_first_token_that_is_less_likely_to_stand_than_is_asked(
    calibration, confidence, least
):
    survival = list(accumulate(map(calibration.chance, confidence), mul))
    count = calibration.worth(confidence, least)
    assert count >= min(1, len(confidence))
    assert all(chance >= least for chance in survival[1:count])
    assert count == len(confidence) or survival[count] < least


@pytest.mark.parametrize(("rate", "confidence"), [(0.3, 0.95), (0.9, 0.05)])
def test_how_often_tokens_of_a_confidence_stand_is_learnt_and_told_from_others(rate, confidence):
    calibration = Calibration()
    others = [calibration.chance((place + 0.5) / BINS) for place in range(BINS)]
    assert others == pytest.approx([(place + 0.5) / BINS for place in range(BINS)])
    for test in range(4000):
        calibration.learn(confidence, stood=test % 10 < 10 * rate)
    assert calibration.chance(confidence) == pytest.approx(rate, abs=0.02)
    assert calibration.chance(0.5) == others[BINS // 2]


def test_what_was_true_long_ago_is_forgotten():
    calibration = Calibration()
    for stood in [True] * 5000 + [False] * 3000:
        calibration.learn(0.5, stood)
    assert calibration.chance(0.5) < 0.01


@given(calibrations(), st.lists(CONFIDENCE, min_size=1, max_size=8), st.floats(0, 5))
def test_a_further_token_is_drafted_while_it_raises_goodput_per_second(calibration, confidence, cost):
    chances = [calibration.chance(each) for each in confidence]

    def rate(chances):
        return (1 + sum(accumulate(chances, mul))) / (1 + len(chances) * cost)

    gain = rate([*chances, chances[-1]]) - rate(chances)
    if abs(gain) > 1e-9:
        assert calibration.pays(confidence, cost) == (gain > 0)
