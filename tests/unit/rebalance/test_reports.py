"""What people see: the last ten decisions, what they really brought, and holds that do not pile up."""

import math
from dataclasses import replace

import pytest

from goodspeed_operator.api.status import Reason
from goodspeed_operator.rebalance.report import LAST_DECISIONS, Report, metrics_reason, reported
from goodspeed_runtime.rebalancing.decide import Outcome
from goodspeed_runtime.rebalancing.decision import Action, Decision, Why
from goodspeed_runtime.rebalancing.earnings import Earning, gained
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import Fault

HOLD = Decision(Action.HOLD, Why.BALANCED, words="shadow prices differ by 1%")


def move(name="d-0", gain=0.5):
    return Decision(Action.MOVE, Why.PRICE_GAP, name, "v-0", "v-1", gain, "dear")


def earned(**rates):
    """Drafters a, b, ... of weight 1, always busy, in v-0."""
    return {name: Earning("v-0", 1.0, 1.0, rate, 2.0) for name, rate in rates.items()}


def after(report, *decisions, seen=None, now=0.0, settled=None, apply=True, failed=(), fault=None):
    """By default an interval is 10 s, and shows the result of changes that are two of them old."""
    outcome = Outcome(tuple(decisions), History())
    seen = earned(a=1.0) if seen is None and fault is None else seen
    settled = now - 19.9 if settled is None else settled
    return reported(
        report, outcome, failed, fault=fault, seen=seen, fairness=1.0, now=now, settled=settled, apply=apply
    )


def test_the_same_hold_again_is_no_news():
    first = after(Report(), HOLD, now=0.0)
    second = after(first, Decision(Action.HOLD, Why.BALANCED, words="shadow prices differ by 2%"), now=30.0)
    assert second.decisions == first.decisions
    assert [(each.action, each.reason, each.time) for each in first.decisions] == [
        ("Hold", "Balanced", "1970-01-01T00:00:00Z")
    ]


def test_two_intervals_later_the_real_gain_stands_beside_the_expected_one():
    report = after(Report(), move("d-0", 0.3), move("d-1", 0.1), seen=earned(a=10.0))
    report = after(report, HOLD, seen=earned(a=1.0), now=10.0)
    assert [each.actual_gain for each in report.decisions if each.action == "Move"] == [None, None]
    report = after(report, HOLD, seen=earned(a=10.0 * math.e**0.8), now=20.0)
    moves = [each for each in report.decisions if each.action == "Move"]
    assert [(each.expected_gain, each.actual_gain) for each in moves] == [(0.3, 0.6), (0.1, 0.2)]
    assert report.gain == pytest.approx(0.8)
    assert after(report, HOLD, seen=earned(a=99.0), now=30.0).gain is None


def test_changes_of_two_intervals_in_different_cells_are_told_apart():
    there = Earning("v-2", 1.0, 1.0, 10.0, 2.0)
    report = after(Report(), move("d-0"), seen={**earned(a=10.0), "c": there})
    other = Decision(Action.MOVE, Why.PRICE_GAP, "d-9", "v-2", "v-3", 0.5)
    report = after(report, other, seen={**earned(a=10.0), "c": there}, now=10.0)
    gains = []
    for now in (20.0, 30.0):
        seen = {**earned(a=10.0 * math.e), "c": replace(there, rate=10.0 / math.e)}
        report = after(report, HOLD, seen=seen, now=now)
        gains.append(report.gain)
    assert gains == [pytest.approx(1.0), pytest.approx(-1.0)]
    assert {each.subject: each.actual_gain for each in report.decisions if each.action == "Move"} == {
        "d-0": 1.0,
        "d-9": -1.0,
    }


def test_load_that_comes_or_goes_is_neither_gain_nor_loss():
    before = earned(a=10.0, b=10.0)
    idle = {"b": Earning("v-0", 0.0, 1.0, 0.0, 0.0)}
    assert gained(before, earned(a=10.0) | idle, 1.0) == 0
    assert gained(earned(a=10.0) | idle, before, 1.0) == 0
    half = {"b": Earning("v-0", 0.5, 1.0, 10.0, 2.0)}
    assert gained(before, earned(a=10.0) | half, 1.0) == 0


def test_a_drafter_that_is_new_counts_where_a_pool_has_grown():
    before, later = earned(a=10.0), earned(a=10.0, b=10.0)
    assert gained(before, later, 1.0) == pytest.approx(math.log(2.0))
    assert gained(before, later, 1.0, {"v-0"}) == 0


def test_a_gain_that_cannot_be_seen_waits_for_the_next_interval_that_can():
    report = after(Report(), move(), seen=earned(a=1.0))
    report = after(report, Decision(Action.HOLD, Why.METRICS_STALE), now=20.0, fault=Fault.STALE)
    assert report.decisions[-1].actual_gain is None
    assert after(report, HOLD, seen=earned(a=math.e**0.5), now=30.0).decisions[-1].actual_gain == 0.5


def test_what_was_only_recommended_gains_nothing():
    report = after(Report(), move(), apply=False)
    assert not report.decisions[0].applied
    later = after(report, HOLD, seen=earned(a=9.0), now=20.0, apply=False)
    assert later.decisions[-1].actual_gain is None


def test_an_order_that_failed_was_not_applied():
    bad, good = move("bad"), move("good", 0.4)
    report = after(Report(), bad, good, failed=[bad])
    assert {each.subject: each.applied for each in report.decisions} == {"bad": False, "good": True}


def test_of_many_decisions_the_ten_most_valuable_are_shown():
    report = after(Report(), *(move(f"d-{i}", float(i)) for i in range(30)))
    assert [each.subject for each in report.decisions] == [f"d-{i}" for i in range(29, 19, -1)]
    assert len(report.decisions) == LAST_DECISIONS
    assert len(report.changes) == 30


def test_the_condition_names_the_fault():
    assert metrics_reason(Fault.MISSING) is Reason.METRICS_MISSING
    assert metrics_reason(Fault.STALE) is Reason.METRICS_STALE
    assert metrics_reason(Fault.PROMETHEUS) is Reason.PROMETHEUS_ERROR
    for fine in (None, Fault.ROLLING_OUT, Fault.OBSERVING):
        assert metrics_reason(fine) is Reason.METRICS_FRESH
