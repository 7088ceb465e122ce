"""Fixed-S and Random-S."""

import numpy as np
import pytest

from goodspeed_runtime.scheduling.baselines import FixedAllocator, RandomAllocator


def rows(size, cap=100):
    return {
        "weights": np.ones(size),
        "acceptance": np.full(size, 0.5),
        "goodput": np.ones(size),
        "caps": np.full(size, cap),
    }


def test_fixed_gives_everyone_an_equal_share_of_the_budget():
    assert FixedAllocator().allocate(**rows(4), budget=24).grants.tolist() == [6, 6, 6, 6]


def test_fixed_hands_the_rest_round_so_that_nobody_is_favoured():
    allocator = FixedAllocator()
    rounds = [allocator.allocate(**rows(8), budget=20).grants for _ in range(2)]
    assert all(grants.sum() == 20 for grants in rounds)
    assert sum(rounds).tolist() == [5] * 8


def test_fixed_at_a_length_gives_it_where_the_budget_allows():
    assert FixedAllocator(3).allocate(**rows(4), budget=24).grants.tolist() == [3] * 4
    assert FixedAllocator(9).allocate(**rows(4), budget=24).grants.tolist() == [6] * 4


@pytest.mark.parametrize("budget", [0, 1, 20])
def test_random_stays_within_the_budget_and_repeats_with_its_seed(budget):
    draws = [
        [
            RandomAllocator(np.random.default_rng(3)).allocate(**rows(8), budget=budget).grants
            for _ in range(3)
        ]
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*draws)
    assert all(grants.min() >= 0 and grants.sum() <= budget for grants in draws[0])


def test_random_favours_no_row():
    allocator = RandomAllocator(np.random.default_rng(0))
    mean = np.mean([allocator.allocate(**rows(4), budget=16).grants for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean, 16 / 5, atol=0.25)


@pytest.mark.parametrize("allocator", [FixedAllocator(), RandomAllocator(np.random.default_rng(0))])
def test_baselines_respect_caps_and_take_no_rows(allocator):
    assert allocator.allocate(**rows(5, cap=2), budget=50).grants.max() <= 2
    assert allocator.allocate(**rows(0), budget=50).grants.shape == (0,)
