"""Stronger baselines, and the optimum that all are measured by, against every division there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from goodspeed_runtime.scheduling.allocation import Refinements
from goodspeed_runtime.scheduling.baselines import BestFixedAllocator, StaticOracleAllocator
from goodspeed_runtime.scheduling.goodput import barrier_seconds, expected_goodput, jain_index
from goodspeed_runtime.scheduling.gradient import SumThroughputAllocator
from goodspeed_runtime.scheduling.optimum import optimal_goodput
from goodspeed_runtime.scheduling.timing import Timing, VerificationCost
from goodspeed_runtime.scheduling.utility import AlphaFair

FAIRNESS = st.sampled_from([0.0, 1.0, 2.0, 8.0])


def drawn(seed, size=3, cap=4):
    generator = np.random.default_rng(seed)
    return {
        "weights": generator.uniform(0.5, 2, size),
        "acceptance": generator.uniform(0.05, 0.95, size),
        "caps": generator.integers(0, cap + 1, size),
        "budget": int(generator.integers(0, size * cap + 1)),
    }


def divisions(instance):
    for lengths in itertools.product(*(range(cap + 1) for cap in instance["caps"])):
        if sum(lengths) <= instance["budget"]:
            yield np.array(lengths)


def worth(lengths, instance, utility):
    return float(
        (instance["weights"] * utility.value(expected_goodput(instance["acceptance"], lengths))).sum()
    )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), FAIRNESS)
def test_the_static_oracle_finds_the_best_division_to_keep_for_ever(seed, alpha):
    instance, utility = drawn(seed), AlphaFair(alpha)
    found = StaticOracleAllocator(utility).allocate(**instance, goodput=np.ones(3))
    best = max(worth(lengths, instance, utility) for lengths in divisions(instance))
    assert worth(found.grants, instance, utility) == pytest.approx(best, rel=1e-9)
    assert found.grants.sum() <= instance["budget"]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), FAIRNESS)
def test_the_best_fixed_length_per_second_is_the_best_of_all_lengths(seed, alpha):
    instance, utility = drawn(seed), AlphaFair(alpha)
    generator = np.random.default_rng(seed)
    timing = Timing(
        generator.uniform(0, 0.05, 3), generator.uniform(0, 0.1, 3), VerificationCost.linear(0.03, 0.0002)
    )
    found = BestFixedAllocator(utility).allocate(
        **instance, goodput=np.ones(3), refinements=Refinements(timing=timing)
    )

    def by_second(length):
        lengths = np.minimum(instance["caps"], length)
        rate = expected_goodput(instance["acceptance"], lengths) / barrier_seconds(timing, lengths)
        return float((instance["weights"] * utility.value(rate)).sum())

    best = max(range(instance["budget"] // 3 + 1), key=by_second)
    same = np.minimum(instance["caps"], best)
    assert by_second(found.grants.max(initial=0)) == pytest.approx(by_second(best))
    assert found.grants.tolist() == same.tolist()


def test_per_round_the_best_fixed_length_is_the_longest():
    found = BestFixedAllocator().allocate(
        weights=np.ones(4), acceptance=np.full(4, 0.6), goodput=np.ones(4), caps=np.full(4, 9), budget=23
    )
    assert found.grants.tolist() == [5] * 4


def test_sum_throughput_feeds_the_best_drafter_and_starves_the_worst():
    found = SumThroughputAllocator().allocate(
        weights=np.ones(2),
        acceptance=np.array([0.95, 0.4]),
        goodput=np.array([9.0, 1.0]),
        caps=np.full(2, 16),
        budget=12,
    )
    assert found.grants.tolist() == [12, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 2.0]))
def test_no_mixture_of_divisions_earns_more_than_the_optimum(seed, alpha):
    """x* is best when moving towards no division gains: Σ w·U'(x*)·(mu(S) − x*) <= 0 for every S."""
    instance, utility = drawn(seed), AlphaFair(alpha)
    x = optimal_goodput(**instance, utility=utility)
    slope = instance["weights"] * utility.gradient(x)
    yields = np.array([expected_goodput(instance["acceptance"], lengths) for lengths in divisions(instance)])
    assert ((yields - x) @ slope).max() <= 1e-9 * slope.sum()
    # And it can be reached: some mixture of divisions yields it.
    mixture = linprog(
        np.zeros(len(yields)),
        A_eq=np.vstack([yields.T, np.ones(len(yields))]),
        b_eq=np.append(x, 1.0),
        method="highs",
    )
    assert mixture.status == 0


def test_the_optimum_of_a_plain_sum_is_refused_as_not_unique():
    with pytest.raises(ValueError, match="no unique optimum"):
        optimal_goodput(**drawn(1), utility=AlphaFair(0.0))


def test_jain_is_one_for_equals_and_one_over_n_when_one_has_all():
    assert jain_index(np.full(5, 3.0)) == pytest.approx(1)
    assert jain_index(np.array([4.0, 0, 0, 0])) == pytest.approx(0.25)
