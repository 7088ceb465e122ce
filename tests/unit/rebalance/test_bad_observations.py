"""What is missing, stale or not a number is never acted on."""

from dataclasses import replace

import numpy as np
import pytest
from fleets import fleet, pool
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.rebalancing.decide import decide
from goodspeed_runtime.rebalancing.decision import Action, Limits
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import Fault

LOPSIDED = fleet([0] * 4 + [1] * 4, [1] * 4 + [0] * 4, pools=[pool(load=0.0, replicas=8, ready=8)])


def test_the_fleet_of_these_tests_would_be_changed_if_its_figures_were_sound():
    assert {each.action for each in decide(LOPSIDED, Limits(), History()).changes} == {
        Action.MOVE,
        Action.SCALE,
    }


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_holds_with_its_own_reason(fault):
    outcome = decide(replace(LOPSIDED, fault=fault, words="why"), Limits(), History())
    (hold,) = outcome.decisions
    assert (hold.action, hold.reason.value, hold.words) == (Action.HOLD, fault.value, "why")


OF_CELLS, OF_DRAFTS = ("prices", "waits", "overheads"), ("shares", "lengths", "seconds", "token_seconds")
BROKEN = (*OF_CELLS, *OF_DRAFTS, "acceptance", "sequences", "goodput", "weights", "rates", "present")


@given(
    column=st.sampled_from(BROKEN),
    row=st.integers(0, 1),
    bad=st.sampled_from([np.nan, np.inf, -np.inf, -1.0]),
)
def test_one_figure_that_is_no_number_holds_everything(column, row, bad):
    part = "cells" if column in OF_CELLS else "drafters"
    table = getattr(LOPSIDED, part)
    inner = table.drafts if column in OF_DRAFTS else table
    values = getattr(inner, column).copy()
    values[row] = bad
    broken = replace(inner, **{column: values})
    table = replace(table, drafts=broken) if column in OF_DRAFTS else broken
    outcome = decide(replace(LOPSIDED, **{part: table}), Limits(), History())
    assert [each.reason for each in outcome.decisions] == [Fault.MISSING.value]
    assert not outcome.changes


def test_a_pool_whose_load_is_no_number_is_not_scaled():
    observation = replace(LOPSIDED, pools=(pool(load=float("nan")),))
    assert not decide(observation, Limits(), History()).changes
