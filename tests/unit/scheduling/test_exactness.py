"""Every small instance there is, and the refinements, against the best of all divisions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_runtime.scheduling.allocation import Refinements
from goodspeed_runtime.scheduling.goodput import expected_goodput
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.utility import AlphaFair

# A client: what a token is worth to it, its acceptance, its cap.
CLIENTS = list(itertools.product([0.0, 1.0, 2.0], [0.0, 0.25, 0.5, 0.9], [0, 1, 3]))


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_on_every_instance_of_a_grid_grants_are_the_best_division_and_the_price_the_next_gain(size):
    lengths = np.array(list(itertools.product(range(4), repeat=size)))
    allocator, checked = GradientAllocator(AlphaFair(0.0)), 0
    for kinds in itertools.combinations_with_replacement(CLIENTS, size):
        values, acceptance, caps = (np.array(column) for column in zip(*kinds, strict=True))
        allowed = lengths[(lengths <= caps).all(axis=1)]
        worth = (values * expected_goodput(acceptance, allowed)).sum(axis=1)
        best = np.full(11, -np.inf)
        np.maximum.at(best, allowed.sum(axis=1), worth)
        best = np.maximum.accumulate(best)
        for budget in range(min(3 * size, 5) + 1):
            found = allocator.allocate(
                weights=values, acceptance=acceptance, goodput=np.ones(size), caps=caps, budget=budget
            )
            assert found.grants.sum() <= budget
            assert (found.grants <= caps).all()
            reached = float((values * expected_goodput(acceptance, found.grants)).sum())
            assert reached == pytest.approx(best[budget], rel=1e-12)
            assert found.shadow_price == pytest.approx(best[budget + 1] - best[budget], abs=1e-12)
            checked += 1
    assert checked == {1: 36 * 4, 2: 666 * 6, 3: 8436 * 6}[size]


@st.composite
def refined(draw):
    size = draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    caps = generator.integers(0, 5, size)
    floors = generator.integers(0, 4, size)
    budget = int(np.minimum(floors, caps).sum()) + draw(st.integers(0, 8))
    survival = np.cumprod(generator.choice([0.0, 0.2, 0.5, 0.9, 1.0], (size, 4)), axis=1)
    return size, caps, floors, budget, survival, generator


@settings(max_examples=400, deadline=None)
@given(refined(), st.booleans(), st.booleans())
def test_with_floors_and_survival_by_position_grants_are_the_best_division(instance, floored, positional):
    size, caps, floors, budget, survival, generator = instance
    acceptance = generator.choice([0.1, 0.4, 0.7], size)
    weights, goodput = generator.choice([0.5, 1.0, 3.0], size), generator.uniform(0.5, 4, size)
    least = np.minimum(floors, caps) if floored else np.zeros(size, int)
    chances = survival if positional else acceptance[:, None] ** np.arange(1, 5)
    total = np.pad(chances.cumsum(axis=1), ((0, 0), (1, 0)))
    values = weights / goodput

    def worth(lengths):
        return float((values * total[np.arange(size), lengths]).sum())

    found = GradientAllocator().allocate(
        weights=weights,
        acceptance=acceptance,
        goodput=goodput,
        caps=caps,
        budget=budget,
        refinements=Refinements(
            floors=floors if floored else None, survival=survival if positional else None
        ),
    )
    best = max(
        worth(np.array(each))
        for each in itertools.product(*(range(low, high + 1) for low, high in zip(least, caps, strict=True)))
        if sum(each) <= budget
    )
    assert (found.grants >= least).all()
    assert (found.grants <= caps).all()
    assert found.grants.sum() <= budget
    assert worth(found.grants) == pytest.approx(best, rel=1e-12, abs=1e-12)


def test_floors_above_the_budget_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match="floors take 2 tokens more than the budget; lower them"):
        GradientAllocator().allocate(
            weights=np.ones(2),
            acceptance=np.full(2, 0.5),
            goodput=np.ones(2),
            caps=np.full(2, 8),
            budget=4,
            refinements=Refinements(floors=np.array([3, 3])),
        )


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 5), st.integers(0, 16), st.integers(0, 2**32 - 1))
def test_what_a_wrong_estimate_costs_is_bounded_by_how_wrong_it_is(size, budget, seed):
    """Regret of one round <= 2·Σ v·|mu(α̂, C) − mu(α, C)|, the bound that docs/scheduling.md derives."""
    generator = np.random.default_rng(seed)
    true, estimate = generator.uniform(0.01, 0.99, (2, size))
    goodput = generator.uniform(0.5, 5, size)
    common = {"weights": np.ones(size), "goodput": goodput, "caps": np.full(size, 16), "budget": budget}
    best = GradientAllocator().allocate(acceptance=true, **common).grants
    taken = GradientAllocator().allocate(acceptance=estimate, **common).grants
    regret = float(((expected_goodput(true, best) - expected_goodput(true, taken)) / goodput).sum())
    longest = np.full(size, budget)
    apart = np.abs(expected_goodput(estimate, longest) - expected_goodput(true, longest))
    assert regret <= 2 * float((apart / goodput).sum()) + 1e-9
