"""Placement: load on some cells only spreads until budget costs about the same everywhere."""

from dataclasses import replace

import numpy as np
import pytest
from fleets import fleet
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_runtime.rebalancing.decide import decide
from goodspeed_runtime.rebalancing.decision import Action, Limits, Why
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.shares import Demand
from goodspeed_runtime.scheduling.optimum import optimal_goodput
from goodspeed_runtime.scheduling.utility import AlphaFair


def moved(observation, outcome):
    """The drafters' cells once all moves are carried out."""
    cells = observation.drafters.cells.copy()
    for each in outcome.changes:
        if each.action is Action.MOVE:
            cells[observation.drafters.names.index(each.subject)] = observation.cells.names.index(
                each.destination
            )
    return cells


@given(
    acceptance=st.lists(st.floats(0.05, 0.95), min_size=1, max_size=12),
    budget=st.integers(1, 60),
    alpha=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_the_model_agrees_with_the_optimum_that_the_scheduler_converges_to(acceptance, budget, alpha):
    size = len(acceptance)
    columns = {"weights": np.ones(size), "acceptance": np.array(acceptance), "caps": np.full(size, 8)}
    shares = Demand(**columns, sequences=np.ones(size), fairness=alpha).solve(
        np.zeros(size, np.int64), np.array([budget])
    )
    best = optimal_goodput(**columns, budget=budget, utility=AlphaFair(alpha))
    assert shares.goodput == pytest.approx(best, rel=1e-3)
    assert shares.tokens.sum() <= budget * (1 + 1e-6)


@given(acceptance=st.lists(st.floats(0.2, 0.9), min_size=2, max_size=8), budget=st.integers(2, 12))
def test_the_slope_is_what_one_more_token_of_budget_does_to_the_price(acceptance, budget):
    size = len(acceptance)
    demand = Demand(
        weights=np.ones(size),
        acceptance=np.array(acceptance),
        sequences=np.ones(size),
        caps=np.full(size, 8),
        fairness=1.0,
    )
    here = np.zeros(size, np.int64)
    base = demand.solve(here, np.array([budget], float))
    step = 1e-4
    more = demand.solve(here, np.array([budget + step], float))
    measured = (base.prices[0] - more.prices[0]) / step
    # At the end of a piece the slope jumps; elsewhere the two agree.
    if base.slopes[0] > 0 and abs(measured - base.slopes[0]) > 0.05 * base.slopes[0]:
        filled = (base.tokens % 1 < 1e-3) | (base.tokens % 1 > 1 - 1e-3)
        assert filled.any()


def test_load_on_one_cell_only_is_spread_until_prices_differ_by_less_than_the_hysteresis():
    observation = fleet([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)
    assert observation.cells.prices[0] > 0
    assert observation.cells.prices[1] == 0
    outcome = decide(observation, Limits(), History())
    assert {(each.source, each.destination, each.reason) for each in outcome.changes} == {
        ("cell-0", "cell-1", Why.PRICE_GAP)
    }
    cells = moved(observation, outcome)
    after = fleet(cells, [1] * 4 + [0] * 4)
    assert after.cells.prices.min() > 0.8 * after.cells.prices.max()


def test_the_expected_gain_is_what_the_model_gains():
    observation = fleet([0] * 6 + [1] * 2, acceptance=np.linspace(0.4, 0.9, 8))
    outcome = decide(observation, Limits(), History())
    demand = Demand(
        weights=np.ones(8),
        acceptance=observation.drafters.acceptance,
        sequences=np.ones(8),
        caps=np.full(8, 8),
        fairness=1.0,
    )
    before = demand.solve(observation.drafters.cells, observation.cells.budgets).utility.sum()
    after = demand.solve(moved(observation, outcome), observation.cells.budgets).utility.sum()
    assert sum(each.expected_gain for each in outcome.changes) == pytest.approx(after - before)
    assert after > before


def test_balanced_cells_are_left_alone_and_the_hold_says_so():
    (hold,) = decide(fleet([0, 0, 1, 1]), Limits(), History()).decisions
    assert (hold.action, hold.reason) == (Action.HOLD, Why.BALANCED)
    assert "0%" in hold.words


def test_a_drafter_that_moved_and_the_cells_it_moved_between_cool_down():
    observation = fleet([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)
    limits = Limits(cooldown=60)
    outcome = decide(observation, limits, History())
    history = outcome.history.after(outcome.changes, observation.time, limits.cooldown)
    again = decide(replace(observation, time=observation.time + 59), limits, history)
    assert [(each.action, each.reason) for each in again.decisions] == [(Action.HOLD, Why.COOLING_DOWN)]
    assert decide(replace(observation, time=observation.time + 61), limits, history).changes


def test_a_gap_that_no_move_can_narrow_is_left():
    observation = fleet([0], caps=8, budget=2, acceptance=0.9)
    (hold,) = decide(observation, Limits(), History()).decisions
    assert hold.action is Action.HOLD
    assert hold.reason is Why.NOT_WORTH_IT


def test_prices_that_tremble_move_nobody():
    generator = np.random.default_rng(0)
    cells = np.repeat(np.arange(20), 10)
    history, moves = History(), 0
    for step in range(50):
        observation = fleet(cells, count=20, budget=20, acceptance=0.7, time=30.0 * step)
        noise = generator.lognormal(0, 0.05, 20)
        noisy = replace(
            observation, cells=replace(observation.cells, prices=observation.cells.prices * noise)
        )
        outcome = decide(noisy, Limits(), history)
        history = outcome.history.after(outcome.changes, noisy.time, 120)
        moves += len(outcome.changes)
    assert moves <= 0.01 * 50 * len(cells)


fleets = st.builds(
    lambda cells, seed, budget: fleet(
        cells,
        np.random.default_rng(seed).choice([0.0, 0.3, 1.0, 3.0], len(cells)),
        count=4,
        acceptance=np.random.default_rng(seed).uniform(0.05, 0.98, len(cells)),
        weights=np.random.default_rng(seed).uniform(0.2, 5, len(cells)),
        budget=budget,
    ),
    st.lists(st.integers(-1, 3), min_size=1, max_size=40),
    st.integers(0, 1000),
    st.integers(1, 100),
)


@given(observation=fleets, moves=st.integers(0, 10), hysteresis=st.floats(0.01, 0.9))
@settings(max_examples=150, deadline=None)
def test_moves_respect_their_cap_gain_utility_and_lead_from_dear_to_cheap(observation, moves, hysteresis):
    limits = Limits(moves=moves, hysteresis=hysteresis)
    outcome = decide(observation, limits, History())
    changes = outcome.changes
    assert outcome.decisions
    assert len(changes) <= moves
    assert len({each.subject for each in changes}) == len(changes), "a drafter moves at most once"
    names = observation.cells.names
    for each in changes:
        row = observation.drafters.names.index(each.subject)
        assert observation.drafters.cells[row] == names.index(each.source) != names.index(each.destination)
        assert observation.drafters.sequences[row] > 0
    if changes:
        assert sum(each.expected_gain for each in changes) >= limits.least_gain * len(changes)


@given(observation=fleets, cooldown=st.floats(1, 600), later=st.floats(0, 599))
@settings(max_examples=80, deadline=None)
def test_whatever_changed_is_left_alone_until_it_has_cooled_down(observation, cooldown, later):
    limits = Limits(cooldown=cooldown)
    first = decide(observation, limits, History())
    history = first.history.after(first.changes, observation.time, cooldown)
    touched = {name for each in first.changes for name in (each.subject, each.source, each.destination)}
    second = decide(
        replace(observation, time=observation.time + min(later, 0.99 * cooldown)), limits, history
    )
    for each in second.changes:
        assert not {each.subject, each.source, each.destination} & touched
