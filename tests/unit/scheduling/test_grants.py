"""Tokens in flight never exceed the budget, whoever takes part in a round."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_runtime.scheduling.grants import member_grants


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_over_many_rounds_the_sum_in_flight_never_exceeds_the_budget(size, budget, seed):
    generator = np.random.default_rng(seed)
    in_flight = np.zeros(size, np.int64)
    for _ in range(30):
        solved = generator.multinomial(generator.integers(0, budget + 1), generator.dirichlet(np.ones(size)))
        members = generator.random(size) < generator.random()
        grants = member_grants(solved=solved, members=members, in_flight=in_flight, budget=budget)
        assert (grants >= 0).all()
        assert (grants <= solved[members]).all()
        in_flight[members] = grants
        assert in_flight.sum() <= budget


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_members_are_cut_only_by_what_others_hold_and_use_all_that_is_left(size, budget, seed):
    generator = np.random.default_rng(seed)
    solved = generator.multinomial(budget, generator.dirichlet(np.ones(size)))
    in_flight = generator.multinomial(generator.integers(0, budget + 1), generator.dirichlet(np.ones(size)))
    members = generator.random(size) < 0.5
    grants = member_grants(solved=solved, members=members, in_flight=in_flight, budget=budget)
    room = budget - in_flight[~members].sum()
    assert grants.sum() == min(room, solved[members].sum())


def test_when_all_take_part_everyone_gets_what_was_solved():
    solved = np.array([3, 0, 5])
    grants = member_grants(solved=solved, members=np.ones(3, bool), in_flight=np.array([8, 8, 8]), budget=8)
    np.testing.assert_array_equal(grants, solved)


def test_a_shortage_is_shared_in_proportion():
    grants = member_grants(
        solved=np.array([6, 3, 0]),
        members=np.array([True, True, False]),
        in_flight=np.array([0, 0, 3]),
        budget=9,
    )
    assert grants.tolist() == [4, 2]


def test_others_that_hold_more_than_a_budget_made_smaller_leave_zero_grants():
    grants = member_grants(
        solved=np.array([2, 2]), members=np.array([True, False]), in_flight=np.array([0, 9]), budget=4
    )
    assert grants.tolist() == [0]
