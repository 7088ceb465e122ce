"""What is kept of a guess when tokens are committed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.drafter.confidence import Calibration
from goodspeed_runtime.drafter.hypothesis import Hypothesis

TOKENS = st.lists(st.integers(0, 2), max_size=6)


def guess(prompt, tokens):
    hypothesis = Hypothesis()
    hypothesis.follow(prompt)
    for token in tokens:
        hypothesis.add(token, 0.5, np.array([token], np.int32), np.array([token + 1], np.int32))
    return hypothesis


@given(TOKENS, TOKENS, TOKENS)
def test_what_follows_the_committed_tokens_is_kept_with_its_q_and_nothing_else_is(prompt, guessed, committed):
    hypothesis = guess(prompt, guessed)
    hypothesis.follow([*prompt, *committed])
    confirmed = guessed[: len(committed)] == committed
    assert hypothesis.tokens == (guessed[len(committed) :] if confirmed else [])
    block = hypothesis.block(9)
    assert block.tokens.tolist() == block.support_ids.tolist() == hypothesis.tokens
    assert block.support_weights.tolist() == [token + 1 for token in hypothesis.tokens]


@given(TOKENS, st.lists(TOKENS.filter(bool), max_size=5), st.lists(TOKENS, min_size=5, max_size=5))
def test_no_place_is_guessed_twice_in_a_run_of_the_same_start(prompt, commits, guesses):
    """(position, start) names a draw: drawn twice, the second would not be independent of the first."""
    hypothesis, text, drawn = Hypothesis(), list(prompt), set()
    for committed, guessed in zip(commits, guesses, strict=False):
        hypothesis.follow(text)
        for token in guessed:
            place = (len(text) + len(hypothesis.tokens), hypothesis.start)
            assert place not in drawn
            drawn.add(place)
            hypothesis.add(token, 0.5)
        text += committed


def test_a_calibration_learns_how_often_tokens_of_a_confidence_stand():
    calibration = Calibration()
    generator = np.random.default_rng(1)
    for _ in range(5000):
        sure = generator.random() < 0.5
        calibration.learn(0.95 if sure else 0.3, bool(generator.random() < (0.9 if sure else 0.6)))
    assert abs(calibration.chance(0.95) - 0.9) < 0.05
    assert abs(calibration.chance(0.3) - 0.6) < 0.07


def test_a_draft_ends_before_the_token_whose_chance_is_too_small_but_has_one_token():
    calibration = Calibration()
    assert calibration.worth([0.95, 0.95, 0.1, 0.95], 0.3) == 2
    assert calibration.worth([0.01, 0.95], 0.3) == 1
    assert calibration.worth([], 0.3) == 0
    assert calibration.worth([0.1, 0.1], 0.0) == 2


def test_a_token_that_costs_as_much_as_a_round_pays_only_if_it_is_as_good_as_one():
    calibration = Calibration()
    assert calibration.pays([0.95], 0.01)
    assert not calibration.pays([0.1, 0.1], 0.5)
    assert not calibration.pays([0.95] * 3, 3.0)
