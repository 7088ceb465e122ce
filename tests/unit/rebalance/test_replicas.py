"""Pools grow where requests wait and shrink where drafters stand idle, never past a cap."""

from dataclasses import replace

import pytest
from fleets import fleet, pool
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.rebalancing.decision import Action, Limits, Why
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.replicas import scale


def decided(*pools, limits=None, gpus=0, history=None, **more):
    observation = fleet([0, 0, 1, 1], pools=pools, gpus=gpus, **more)
    return scale(observation, limits or Limits(), history or History())


def test_a_pool_whose_requests_wait_grows_to_what_its_load_needs():
    (found,) = decided(pool(load=14.0, waiting=6.0))
    assert (found.action, found.reason, found.source, found.destination) == (
        Action.SCALE,
        Why.QUEUE,
        "2",
        "4",
    )
    assert found.expected_gain > 0


def test_a_pool_never_more_than_doubles_at_once():
    (found,) = decided(pool(load=1000.0, waiting=990.0))
    assert found.destination == "4"


def test_a_pool_that_stands_idle_loses_one_drafter_at_a_time():
    (found,) = decided(pool(replicas=4, ready=4, load=1.0))
    assert (found.reason, found.source, found.destination) == (Why.IDLE, "4", "3")


def test_a_pool_as_busy_as_it_should_be_is_left_alone():
    assert decided(pool(load=6.0)) == []


@pytest.mark.parametrize("changes", [{"fewest": 2, "most": 2}, {"ready": 1}])
def test_a_pool_that_is_not_ours_to_scale_or_still_changes_is_left_alone(changes):
    assert decided(pool(load=14.0, waiting=6.0, **changes)) == []


def test_a_pool_cools_down():
    grown = pool(load=14.0, waiting=6.0)
    history = History().after(decided(grown), 1000.0, 120)
    assert decided(grown, history=history) == []
    assert decided(grown, history=history, time=1121.0)


def test_verifiers_without_room_get_no_more_drafters():
    (found,) = decided(pool(load=14.0, waiting=6.0), saturated=True)
    assert (found.action, found.reason) == (Action.HOLD, Why.SATURATED)


def test_where_only_one_pool_may_grow_it_is_the_one_with_more_goodput_for_its_cost():
    dear, cheap = pool(name="dear", cost=5.0), pool(name="cheap", cost=1.0)
    pools = [replace(each, load=14.0, waiting=6.0) for each in (dear, cheap)]
    observation = fleet([0, 0, 1, 1], pools=pools)
    drafters = replace(observation.drafters, pools=observation.drafters.cells)
    found = scale(replace(observation, drafters=drafters), Limits(drafters=5), History())
    assert [(each.subject, each.action) for each in found] == [("cheap", Action.SCALE), ("dear", Action.HOLD)]


def test_a_cap_lowered_below_what_there_is_shrinks_the_fleet_to_it():
    (found,) = decided(pool(replicas=4, ready=4, load=14.0, gpus=2), gpus=9, limits=Limits(gpus=6))
    assert (found.reason, found.destination) == (Why.CAP_REACHED, "2")


pools = st.lists(
    st.builds(
        lambda replicas, slack, load, waiting, gpus, cost: pool(
            replicas=replicas,
            ready=replicas,
            fewest=max(0, replicas - slack),
            most=replicas + slack,
            load=load + waiting,
            waiting=waiting,
            gpus=gpus,
            cost=cost,
        ),
        st.integers(0, 20),
        st.integers(0, 8),
        st.floats(0, 200),
        st.floats(0, 200),
        st.integers(0, 4),
        st.floats(0.1, 10),
    ),
    max_size=5,
)


@given(pools=pools, spare=st.integers(-5, 20), drafters=st.integers(0, 60))
def test_no_decision_ever_takes_the_fleet_over_a_cap_or_a_pool_out_of_its_bounds(pools, spare, drafters):
    pools = [replace(each, name=f"pool-{index}") for index, each in enumerate(pools)]
    gpus = sum(each.replicas * each.gpus for each in pools)
    limits = Limits(gpus=max(0, gpus + spare), drafters=drafters)
    by_name = {each.name: each for each in pools}
    after = {each.name: each.replicas for each in pools}
    for each in decided(*pools, gpus=gpus, limits=limits):
        if each.action is Action.SCALE:
            after[each.subject] = int(each.destination)
            assert by_name[each.subject].fewest <= after[each.subject] <= by_name[each.subject].most
    used = sum(count * by_name[name].gpus for name, count in after.items())
    assert used <= max(gpus, limits.gpus)
    before = sum(each.replicas for each in pools)
    assert sum(after.values()) <= max(before, drafters)
