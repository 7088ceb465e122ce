"""The budget of a cell follows what its passes cost."""

import numpy as np
import pytest
from fleets import fleet
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.rebalancing.budgets import follow_cost
from goodspeed_runtime.rebalancing.costs import pass_seconds
from goodspeed_runtime.rebalancing.decision import Limits, Why
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import CostCurve

FLAT = CostCurve(np.array([4.0, 64.0]), np.array([0.05, 0.051]))
STEEP = CostCurve(np.array([4.0, 64.0]), np.array([0.01, 0.4]))


def decided(curve, budget, **limits):
    observation = fleet([0] * 4, count=1, budget=budget, acceptance=0.9, curve=curve)
    return follow_cost(observation, Limits(**limits), History())


def test_where_more_tokens_cost_nothing_the_budget_doubles_at_most():
    (found,) = decided(FLAT, 4)
    assert (found.reason, found.source, found.destination) == (Why.GOODPUT, "4", "8")
    assert found.expected_gain > 0


def test_where_every_token_costs_the_budget_shrinks():
    (found,) = decided(STEEP, 28)
    assert found.reason is Why.GOODPUT
    assert 14 <= int(found.destination) < 28


def test_a_round_longer_than_the_latency_target_shrinks_the_budget_whatever_it_costs():
    (found,) = decided(STEEP, 28, latency=0.1)
    assert found.reason is Why.LATENCY
    assert int(found.destination) < 28


def test_no_budget_grows_past_the_latency_target():
    (free,) = decided(FLAT, 4)
    (bound,) = decided(FLAT, 4, latency=0.0501)
    assert int(bound.destination) < int(free.destination)
    fed = int(bound.destination) + 4  # each of the four sequences has one row of its own
    assert pass_seconds(FLAT, np.array([fed]))[0] <= 0.0501 + 1e-9


def test_a_budget_near_its_best_is_left_alone():
    assert decided(FLAT, 32) == []


def test_without_a_measured_curve_nothing_is_decided():
    assert decided(CostCurve(), 4) == []


@given(
    points=st.lists(st.tuples(st.floats(1, 500), st.floats(1e-3, 2)), min_size=1, max_size=8),
    budget=st.integers(1, 400),
    latency=st.one_of(st.none(), st.floats(1e-3, 3)),
)
def test_a_step_is_at_most_to_the_double_or_the_half_and_within_what_the_verifier_has_room_for(
    points, budget, latency
):
    tokens = np.array(sorted({point[0] for point in points}))
    curve = CostCurve(tokens, np.array([point[1] for point in points])[: len(tokens)])
    for found in decided(curve, budget, latency=latency):
        assert found.source != found.destination
        assert budget // 2 <= int(found.destination) <= max(4, 2 * budget)


def test_a_curve_that_was_measured_to_fall_is_taken_not_to():
    curve = CostCurve(np.array([1.0, 10.0, 20.0]), np.array([0.2, 0.1, 0.3]))
    assert pass_seconds(curve, np.array([1.0, 10.0, 20.0, 30.0])) == pytest.approx([0.2, 0.2, 0.3, 0.4])
