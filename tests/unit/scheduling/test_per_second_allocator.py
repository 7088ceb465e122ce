"""Grants for goodput per second: which drafts to wait for, and when not to speculate."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_runtime.scheduling.allocation import Refinements
from goodspeed_runtime.scheduling.goodput import expected_goodput
from goodspeed_runtime.scheduling.per_second import PerSecondAllocator
from goodspeed_runtime.scheduling.timing import Timing, VerificationCost


def allocate(
    *, acceptance, draft, delay, cost, budget, goodput=None, caps=None, floors=None, survival=None, **options
):
    size = len(acceptance)
    return PerSecondAllocator(**options).allocate(
        weights=np.ones(size),
        acceptance=np.asarray(acceptance, float),
        goodput=np.ones(size) if goodput is None else goodput,
        caps=np.full(size, 8) if caps is None else np.asarray(caps),
        budget=budget,
        refinements=Refinements(
            floors=floors,
            survival=survival,
            timing=Timing(np.asarray(draft, float), np.asarray(delay, float), cost),
        ),
    )


def value(lengths, deadline, acceptance, worth, draft, delay, cost):
    """Σ worth·(tokens a second) when drafts later than the deadline are verified every k-th round.

    Who drafts nothing is in every round; who is late gets a token of the verifier's own in those between.
    """
    arrivals = np.where(lengths > 0, delay + lengths * draft, 0)
    period = deadline + cost.at(float((lengths + 1).sum()))
    for _ in range(30):
        every = 1 + np.ceil(np.maximum(arrivals - deadline, 0) / period - 1e-9)
        period = deadline + cost.at(float((np.maximum(lengths + 1, every) / every).sum()))
    left = np.maximum(expected_goodput(acceptance, lengths) - expected_goodput(acceptance, every - 1), 0)
    return float((worth * (every + left) / every).sum()) / period


@pytest.mark.slow
def test_what_it_earns_is_close_to_the_best_of_all_divisions_and_deadlines():
    generator, size, cap = np.random.default_rng(0), 3, 4
    divisions = [np.array(each) for each in itertools.product(range(cap + 1), repeat=size)]
    shares = []
    for _ in range(30):
        acceptance, goodput = generator.uniform(0.1, 0.95, size), generator.uniform(1, 30, size)
        draft, delay = generator.uniform(0.001, 0.08, size), generator.uniform(0.005, 0.2, size)
        cost = VerificationCost.linear(generator.uniform(0.01, 0.06), generator.choice([1e-4, 1e-3]))
        budget = int(generator.integers(1, 10))
        found = allocate(
            acceptance=acceptance,
            draft=draft,
            delay=delay,
            cost=cost,
            budget=budget,
            goodput=goodput,
            caps=np.full(size, cap),
        )
        rest = (acceptance, 1 / goodput, draft, delay, cost)
        arrivals = (delay[:, None] + np.arange(cap + 1) * draft[:, None]).ravel()
        deadlines = np.concatenate([[0.0], arrivals, np.linspace(0, 0.5, 20)])
        best = max(
            value(lengths, deadline, *rest)
            for lengths in divisions
            if lengths.sum() <= budget
            for deadline in deadlines
        )
        shares.append(value(found.grants, found.wait_seconds, *rest) / best)
    assert np.mean(shares) > 0.985
    assert min(shares) > 0.9


def test_where_drafting_costs_more_time_than_it_earns_nobody_is_granted_a_token():
    slow = allocate(
        acceptance=[0.3, 0.4],
        draft=[0.5, 0.5],
        delay=[0.01, 0.01],
        cost=VerificationCost.linear(0.02, 1e-4),
        budget=16,
    )
    assert slow.grants.tolist() == [0, 0]
    # A pass that is bound by its tokens: a draft accepted now and then costs others more than it brings.
    dear = allocate(
        acceptance=[0.3, 0.4],
        draft=[0.0, 0.0],
        delay=[0.0, 0.0],
        cost=VerificationCost.linear(0.001, 0.02),
        budget=16,
    )
    assert dear.grants.tolist() == [0, 0]


def test_plain_decoding_waits_for_no_link():
    """A draft over 50 ms brings 3.3 tokens, and plain decoding as many in the time of four passes."""
    far = {"acceptance": [0.8], "draft": [0.0], "delay": [0.05], "budget": 4}
    assert allocate(**far, cost=VerificationCost.linear(0.005, 1e-5)).grants.tolist() == [0]
    assert allocate(**far, cost=VerificationCost.linear(0.05, 1e-5)).grants.tolist() == [4]


def test_a_draft_that_brings_next_to_nothing_is_not_asked_for():
    """One token over a way as long as a pass is overtaken before it comes."""
    found = allocate(
        acceptance=[0.6],
        draft=[0.0033],
        delay=[0.002],
        caps=[1],
        cost=VerificationCost.linear(0.0074, 1e-6),
        goodput=np.array([135.0]),
        budget=8,
    )
    assert found.grants.tolist() == [0]


def test_a_draft_that_plain_decoding_will_overtake_is_not_asked_for_and_a_longer_one_is():
    """Two passes fit into the draft's way: of one token nothing would be left, of eight most is."""
    cost = VerificationCost.linear(0.02, 1e-5)
    late = {"acceptance": [0.9] * 4, "draft": [0.0] * 4, "delay": [0.015, 0.5, 0.5, 0.5], "cost": cost}
    assert allocate(**late, caps=[1] * 4, budget=32).grants[1:].tolist() == [0] * 3
    two = {"acceptance": [0.9], "draft": [0.0], "delay": [0.025], "cost": cost}
    found = allocate(**two, budget=8)
    assert found.grants.tolist() == [8]


def test_where_drafts_cost_next_to_nothing_the_whole_budget_is_granted():
    cheap = allocate(
        acceptance=[0.8, 0.8],
        draft=[1e-5, 1e-5],
        delay=[0.001, 0.001],
        cost=VerificationCost.linear(0.05, 1e-5),
        budget=12,
    )
    assert cheap.grants.sum() == 12


def test_the_price_is_what_one_more_token_adds_though_its_draft_needs_a_later_deadline():
    times = {"draft": [0.002] * 3, "delay": [0.01] * 3, "cost": VerificationCost.linear(0.05, 1e-4)}
    acceptance = np.array([0.8, 0.7, 0.9])

    def solved(budget):
        found = allocate(acceptance=acceptance, budget=budget, **times)
        draft, delay = np.array(times["draft"]), np.array(times["delay"])
        return found, value(
            found.grants, found.wait_seconds, acceptance, np.ones(3), draft, delay, times["cost"]
        )

    found, now = solved(9)
    assert found.shadow_price >= solved(10)[1] - now > 0
    assert solved(100)[0].shadow_price == 0


def test_what_a_token_must_bring_is_less_than_what_the_last_one_granted_brings():
    """Whoever drafts stops before a token that brings less: at too high a price every draft is short."""
    acceptance = 0.8
    found = allocate(
        acceptance=[acceptance] * 16,
        goodput=np.full(16, 300.0),
        draft=[0.0] * 16,
        delay=[0.002] * 16,
        cost=VerificationCost((16.0, 80.0), (0.0075, 0.0082)),
        budget=64,
    )
    assert found.grants.tolist() == [4] * 16
    least_chance = found.token_price / (1 / 300.0)
    assert acceptance**5 * 0.5 < least_chance < acceptance**4


def test_a_round_does_not_wait_for_one_slow_link_but_for_links_that_are_all_slow():
    cost = VerificationCost.linear(0.03, 1e-4)
    one = allocate(acceptance=[0.7] * 8, draft=[0.002] * 8, delay=[0.01] * 7 + [0.5], cost=cost, budget=32)
    assert one.wait_seconds < 0.1
    even = allocate(acceptance=[0.9] * 8, draft=[0.002] * 8, delay=[0.02] * 8, cost=cost, budget=64)
    assert even.wait_seconds >= 0.02


def test_the_deadline_is_chosen_anew_only_now_and_then():
    allocator = PerSecondAllocator(rescan=3)

    def wait(delay):
        return allocator.allocate(
            weights=np.ones(2),
            acceptance=np.full(2, 0.8),
            goodput=np.ones(2),
            caps=np.full(2, 8),
            budget=8,
            refinements=Refinements(
                timing=Timing(np.full(2, 0.001), np.full(2, delay), VerificationCost.linear(0.05, 1e-4))
            ),
        ).wait_seconds

    first = wait(0.01)
    assert [wait(0.04), wait(0.04)] == [first, first]
    assert wait(0.04) > first


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_budget_caps_and_floors_hold_whatever_the_times(size, seed):
    generator = np.random.default_rng(seed)
    caps = generator.integers(0, 9, size)
    floors = generator.integers(0, 3, size)
    budget = int(np.minimum(floors, caps).sum() + generator.integers(0, 20))
    found = allocate(
        acceptance=generator.uniform(0, 0.99, size),
        draft=generator.uniform(0, 0.1, size),
        delay=generator.uniform(0, 0.3, size),
        cost=VerificationCost.linear(generator.uniform(0.001, 0.1), generator.uniform(0, 0.01)),
        goodput=generator.uniform(0, 50, size),
        budget=budget,
        caps=caps,
        floors=floors,
    )
    assert found.grants.sum() <= budget
    assert (found.grants <= caps).all()
    assert (found.grants >= np.minimum(floors, caps)).all()
    assert found.wait_seconds >= 0
    assert np.isfinite(found.shadow_price)


def test_tokens_beyond_where_drafts_survive_are_not_granted():
    survival = np.array([[0.9, 0.8, 0.0, 0.0], [0.9, 0.0, 0.0, 0.0]])
    found = allocate(
        acceptance=[0.9, 0.9],
        draft=[1e-4, 1e-4],
        delay=[0.001, 0.001],
        cost=VerificationCost.linear(0.05, 1e-5),
        budget=16,
        survival=survival,
    )
    assert found.grants.tolist() == [2, 1]


def test_no_sequences_get_no_grants_per_second():
    found = allocate(acceptance=[], draft=[], delay=[], cost=VerificationCost.linear(0.05, 0.0), budget=8)
    assert found.grants.shape == (0,)


def test_without_times_it_says_what_it_needs():
    two = np.full(2, 0.5)
    with pytest.raises(ValueError, match=r"needs refinements\.timing"):
        PerSecondAllocator().allocate(weights=two, acceptance=two, goodput=two, caps=np.full(2, 4), budget=4)


def test_floors_above_the_budget_and_a_choice_less_than_every_round_are_refused():
    with pytest.raises(ValueError, match="floors take more"):
        allocate(
            acceptance=[0.5],
            draft=[0.0],
            delay=[0.0],
            cost=VerificationCost.linear(0.05, 0.0),
            budget=2,
            floors=np.array([3]),
        )
    with pytest.raises(ValueError, match="at least 1"):
        PerSecondAllocator(rescan=0)
