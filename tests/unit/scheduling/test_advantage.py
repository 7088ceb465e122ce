"""How much better a way is, and how sure that is, from pairs of blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_runtime.scheduling.advantage import LEAST_GAIN, Pair, advantage


def pairs(first, second, *, count=6, tokens=1000.0, noise=0.0, seed=0):
    """Blocks of accounts with these rates, each of about so many tokens."""
    generator = np.random.default_rng(seed)
    rates = np.array([first, second], float)
    found = []
    for _ in range(count):
        seconds = np.full(rates.shape, tokens / rates.mean())
        counted = rates * seconds * np.exp(noise * generator.standard_normal(rates.shape))
        found.append(Pair(counted, seconds, float(seconds[:, 0].sum())))
    return found


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=6))
def test_without_noise_it_is_the_mean_log_ratio_and_surely_so(rates):
    first, second = zip(*rates, strict=True)
    found = advantage(pairs(first, second, tokens=1e6), np.ones(len(rates)), 1.0)
    truth = float(np.log(np.array(second) / np.array(first)).mean())
    assert found.gain == pytest.approx(truth, abs=1e-3)
    assert found.doubt < 1e-6
    if abs(truth) > LEAST_GAIN + 1e-3:
        assert found.better == int(truth > 0)


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=6), st.floats(0, 3))
def test_the_other_way_round_it_is_the_same_with_the_other_sign(rates, alpha):
    first, second = zip(*rates, strict=True)
    weights = np.arange(1.0, len(rates) + 1)
    there = advantage(pairs(first, second, noise=0.2), weights, alpha)
    turned = [
        Pair(pair.tokens[::-1], pair.sequence_seconds[::-1], pair.seconds)
        for pair in pairs(first, second, noise=0.2)
    ]
    back = advantage(turned, weights, alpha)
    assert back.gain == pytest.approx(-there.gain, abs=1e-9)
    assert back.doubt == pytest.approx(there.doubt, abs=1e-9)


def test_where_both_are_alike_noise_is_hardly_ever_taken_for_an_answer():
    wrong = sum(
        advantage(pairs([30.0] * 2, [30.0] * 2, noise=0.2, seed=seed), np.ones(2), 1.0).better is not None
        for seed in range(400)
    )
    assert wrong < 0.05 * 400


def test_more_pairs_leave_less_doubt():
    few, many = (
        advantage(pairs([30.0], [33.0], noise=0.1, count=count), np.ones(1), 1.0) for count in (4, 24)
    )
    assert many.doubt < few.doubt / 2
    assert many.better == 1


def test_one_pair_alone_leaves_nothing_but_doubt():
    found = advantage(pairs([30.0], [60.0], count=1), np.ones(1), 1.0)
    assert found.better is None
    assert not found.equal


def test_two_ways_that_are_the_same_are_found_to_be():
    assert advantage(pairs([30.0], [30.0]), np.ones(1), 1.0).equal
    assert not advantage(pairs([30.0], [32.0]), np.ones(1), 1.0).equal


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_an_account_that_was_there_for_a_moment_decides_nothing(seed):
    base = pairs([30.0], [36.0], noise=0.05, seed=seed)
    guest = np.random.default_rng(seed).poisson(0.3, (len(base), 2))
    crowd = [
        Pair(
            np.column_stack([pair.tokens[0:2], got]),
            np.column_stack([pair.sequence_seconds[0:2], [0.01, 0.01]]),
            pair.seconds,
        )
        for pair, got in zip(base, guest, strict=True)
    ]
    alone, together = advantage(base, np.ones(1), 1.0), advantage(crowd, np.ones(2), 1.0)
    assert together.gain == pytest.approx(alone.gain, abs=0.01)
    assert together.doubt == pytest.approx(alone.doubt, abs=0.02)


def test_accounts_that_one_way_never_had_are_left_out_and_later_ones_have_no_past():
    nobody = [Pair(np.array([[10.0], [0.0]]), np.array([[1.0], [0.0]]), 1.0)] * 3
    assert advantage(nobody, np.ones(1), 1.0).better is None
    assert advantage(pairs([30.0], [60.0]), np.ones(3), 1.0).better == 1
