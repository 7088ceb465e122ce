"""What people see: the last ten decisions, what they really brought, and holds that do not pile up."""

from goodspeed_operator.api.status import Reason
from goodspeed_operator.rebalance.report import LAST_DECISIONS, Report, metrics_reason, reported
from goodspeed_runtime.rebalancing.decide import Outcome
from goodspeed_runtime.rebalancing.decision import Action, Decision, Why
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import Fault

HOLD = Decision(Action.HOLD, Why.BALANCED, words="shadow prices differ by 1%")


def move(name="d-0", gain=0.5):
    return Decision(Action.MOVE, Why.PRICE_GAP, name, "v-0", "v-1", gain, "dear")


def after(report, *decisions, utility=1.0, now=0.0, apply=True, failed=(), fault=None):
    outcome = Outcome(tuple(decisions), History())
    return reported(report, outcome, failed, fault=fault, utility=utility, now=now, apply=apply)


def test_the_same_hold_again_is_no_news():
    first = after(Report(), HOLD, now=0.0)
    second = after(first, Decision(Action.HOLD, Why.BALANCED, words="shadow prices differ by 2%"), now=30.0)
    assert second.decisions == first.decisions
    assert [(each.action, each.reason, each.time) for each in first.decisions] == [
        ("Hold", "Balanced", "1970-01-01T00:00:00Z")
    ]


def test_one_interval_later_the_real_gain_stands_beside_the_expected_one():
    report = after(Report(), move("d-0", 0.3), move("d-1", 0.1), utility=5.0)
    assert [each.actual_gain for each in report.decisions] == [None, None]
    report = after(report, HOLD, utility=5.8)
    moves = [each for each in report.decisions if each.action == "Move"]
    assert [(each.expected_gain, each.actual_gain) for each in moves] == [(0.3, 0.6), (0.1, 0.2)]
    assert round(report.gain, 6) == 0.8
    assert after(report, HOLD, utility=9.0).gain is None


def test_a_gain_that_cannot_be_seen_waits_for_the_next_interval_that_can():
    report = after(Report(), move(), utility=5.0)
    report = after(report, Decision(Action.HOLD, Why.METRICS_STALE), utility=None, fault=Fault.STALE)
    assert report.decisions[-1].actual_gain is None
    assert after(report, HOLD, utility=5.5).decisions[-1].actual_gain == 0.5


def test_what_was_only_recommended_gains_nothing():
    report = after(Report(), move(), apply=False)
    assert not report.decisions[0].applied
    assert after(report, HOLD, utility=9.0, apply=False).decisions[-1].actual_gain is None


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
