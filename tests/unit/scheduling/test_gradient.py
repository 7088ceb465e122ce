"""The gradient allocator against brute force, against the heap, and at its edges."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.marginals import _solve_by_threshold, _solve_dense, solve, solve_with_heap
from goodspeed_runtime.scheduling.utility import AlphaFair

ACCEPTANCES = st.sampled_from([0.0, 0.01, 0.125, 0.25, 0.3, 0.5, 0.6, 0.75, 0.9, 0.99, 0.999999])
VALUES = st.sampled_from([0.0, 0.125, 0.3, 0.5, 1.0, 2.0, 3.7, 8.0])


@st.composite
def instances(draw, rows=4, cap=5, budget=12):
    size = draw(st.integers(1, rows))
    column = lambda values: np.array(draw(st.lists(values, min_size=size, max_size=size)))  # noqa: E731
    return {
        "weights": column(VALUES).astype(float),
        "acceptance": column(ACCEPTANCES).astype(float),
        "goodput": column(VALUES).astype(float),
        "caps": column(st.integers(0, cap)).astype(np.int64),
        "budget": draw(st.integers(0, budget)),
    }


def objective(grants, instance, utility):
    """Equation 5 as printed, in its closed form."""
    alpha = instance["acceptance"]
    goodput = (1 - alpha ** (np.asarray(grants) + 1)) / (1 - alpha)
    return float((instance["weights"] * utility.gradient(instance["goodput"]) * goodput).sum())


def best_by_brute_force(instance, utility, budget):
    return max(
        objective(grants, instance, utility)
        for grants in itertools.product(*(range(cap + 1) for cap in instance["caps"]))
        if sum(grants) <= budget
    )


@settings(max_examples=600, deadline=None)
@given(instances(), st.sampled_from([0.0, 1.0, 2.0, 5.0]))
def test_grants_reach_the_best_objective_of_all_divisions(instance, alpha):
    utility = AlphaFair(alpha)
    allocation = GradientAllocator(utility).allocate(**instance)
    assert allocation.grants.dtype == np.int64
    assert (allocation.grants >= 0).all()
    assert (allocation.grants <= instance["caps"]).all()
    assert allocation.grants.sum() <= instance["budget"]
    best = best_by_brute_force(instance, utility, instance["budget"])
    assert objective(allocation.grants, instance, utility) == pytest.approx(best, rel=1e-12)


@settings(max_examples=500, deadline=None)
@given(instances(rows=3, cap=4, budget=8))
def test_the_shadow_price_is_what_one_more_token_adds(instance):
    utility = AlphaFair()
    price = GradientAllocator(utility).allocate(**instance).shadow_price
    now, more = (best_by_brute_force(instance, utility, instance["budget"] + extra) for extra in (0, 1))
    assert price == pytest.approx(more - now, rel=1e-6, abs=1e-9 * max(more, 1))


@settings(max_examples=600, deadline=None)
@given(instances(rows=40, cap=12, budget=300))
def test_the_threshold_and_the_dense_solver_equal_the_heap_bit_for_bit_ties_included(instance):
    with np.errstate(divide="ignore"):
        arguments = (np.log(instance["weights"]), np.log(instance["acceptance"]))
    arguments += (instance["caps"], instance["budget"])
    wanted = solve_with_heap(*arguments)
    dense = _solve_dense(*arguments, max(int(instance["caps"].max()), 1))
    for found in (dense, _solve_by_threshold(*arguments)):
        np.testing.assert_array_equal(found.grants, wanted.grants)
        assert found.shadow_price == wanted.shadow_price


@pytest.mark.parametrize("kinds", [1, 3, 20_000])
@pytest.mark.parametrize("budget", [0, 1, 777, 60_000, 10**7])
def test_large_instances_equal_the_heap_whether_clients_are_alike_or_not(kinds, budget):
    generator = np.random.default_rng(kinds)
    size = 20_000
    kind = generator.integers(kinds, size=size)
    values = np.log(generator.choice([0.25, 0.5, 1.0, 2.0], kinds) if kinds < 9 else generator.random(kinds))
    slopes = np.log(generator.choice([0.25, 0.5], kinds) if kinds < 9 else generator.random(kinds) * 0.99)
    caps = generator.integers(0, 30, size)
    arguments = (values[kind], slopes[kind], caps, budget)
    found, wanted = solve(*arguments), solve_with_heap(*arguments)
    np.testing.assert_array_equal(found.grants, wanted.grants)
    assert found.shadow_price == wanted.shadow_price


def test_among_equals_the_lower_row_is_served_first():
    same = np.full(4, 0.5)
    allocation = GradientAllocator().allocate(
        weights=np.ones(4), acceptance=same, goodput=np.ones(4), caps=np.full(4, 8), budget=6
    )
    assert allocation.grants.tolist() == [2, 2, 1, 1]
    assert allocation.shadow_price == pytest.approx(0.25)


def test_a_token_without_gain_is_not_granted_though_budget_is_left():
    allocation = GradientAllocator().allocate(
        weights=np.array([1.0, 0.0, 1.0]),
        acceptance=np.array([0.0, 0.5, 0.5]),
        goodput=np.ones(3),
        caps=np.full(3, 4),
        budget=100,
    )
    assert allocation.grants.tolist() == [0, 0, 4]
    assert allocation.shadow_price == 0


def test_a_client_that_got_less_so_far_is_granted_more():
    allocation = GradientAllocator().allocate(
        weights=np.ones(2),
        acceptance=np.full(2, 0.8),
        goodput=np.array([1.0, 4.0]),
        caps=np.full(2, 16),
        budget=12,
    )
    assert allocation.grants[0] > allocation.grants[1]


def test_no_sequences_get_no_grants():
    none = np.zeros(0)
    allocation = GradientAllocator().allocate(
        weights=none, acceptance=none, goodput=none, caps=none.astype(np.int64), budget=8
    )
    assert allocation.grants.shape == (0,)


@pytest.mark.parametrize("alpha", [50.0, 300.0])
def test_a_large_alpha_neither_overflows_nor_forgets_the_poorest(alpha):
    allocation = GradientAllocator(AlphaFair(alpha)).allocate(
        weights=np.ones(3),
        acceptance=np.full(3, 0.7),
        goodput=np.array([0.0, 2.0, 5.0]),
        caps=np.full(3, 16),
        budget=10,
    )
    assert allocation.grants[0] == 10
    assert np.isfinite(allocation.shadow_price)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("acceptance", 1.0),
        ("acceptance", np.nan),
        ("acceptance", -0.1),
        ("weights", -1.0),
        ("weights", np.inf),
        ("goodput", np.nan),
        ("caps", -1),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(field, value):
    arguments = {
        "weights": np.ones(2),
        "acceptance": np.full(2, 0.5),
        "goodput": np.ones(2),
        "caps": np.full(2, 4),
    }
    arguments[field] = np.array([arguments[field][0], value])
    with pytest.raises(ValueError, match=field):
        GradientAllocator().allocate(**arguments, budget=4)
