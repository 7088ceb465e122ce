"""Grants under a trial: none, the allocator's own, or somebody's where the allocator would give none."""

from types import SimpleNamespace

import numpy as np
import pytest

from goodspeed_runtime.scheduling.allocation import Refinements
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.per_second import PerSecondAllocator
from goodspeed_runtime.scheduling.timing import Timing, VerificationCost
from goodspeed_runtime.scheduling.tried import TriedAllocator


def grants(*, plain=False, insists=False, draft_seconds=0.0):
    trial = SimpleNamespace(plain=plain, insists=insists)
    allocator = TriedAllocator(PerSecondAllocator(), GradientAllocator(), trial)
    cost = VerificationCost.linear(0.03, 1e-5)
    found = allocator.allocate(
        weights=np.ones(2),
        acceptance=np.full(2, 0.8),
        goodput=np.ones(2),
        caps=np.full(2, 8),
        budget=8,
        refinements=Refinements(timing=Timing(np.full(2, draft_seconds), np.full(2, 0.001), cost)),
    )
    return found.grants.tolist(), found.shadow_price


@pytest.mark.parametrize("insists", [False, True])
def test_while_plain_decoding_is_wanted_nobody_is_granted_a_token_and_budget_is_worth_nothing(insists):
    assert grants(plain=True, insists=insists) == ([0, 0], 0.0)


@pytest.mark.parametrize("insists", [False, True])
def test_where_the_allocator_grants_something_that_holds(insists):
    assert grants(insists=insists)[0] == [4, 4]


def test_where_the_allocator_grants_nothing_a_trial_may_insist():
    assert grants(draft_seconds=9.0)[0] == [0, 0]
    assert grants(draft_seconds=9.0, insists=True)[0] == [4, 4]
