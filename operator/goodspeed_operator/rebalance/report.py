"""What people see of rebalancing: the last decisions with their gains, and two conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from goodspeed_operator.api.status import DecisionStatus, Reason
from goodspeed_runtime.rebalancing.decide import Outcome
from goodspeed_runtime.rebalancing.decision import Action, Decision
from goodspeed_runtime.rebalancing.earnings import Earning, gained
from goodspeed_runtime.rebalancing.observation import Fault

LAST_DECISIONS = 10
_LONGEST = 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes made at one time, whose gain is not known yet.

    Attributes:
        when: Unix seconds.
        cells: whose drafters they concern; None for all.
        before: what drafters earned in the interval before.
    """

    when: float
    cells: frozenset[str] | None
    before: Mapping[str, Earning]


@dataclass(frozen=True, slots=True)
class Report:
    """Where rebalancing stands.

    Attributes:
        decisions: the last ten, newest first.
        fault: why metrics could not be used in the last interval; None where they could.
        words: the fault for a person.
        holding: why nothing changes; empty when something does.
        latest: all decisions of the last interval.
        changes: those that change something.
        applied: whether these were carried out.
        gain: utility gained by changes of before, known since the last interval; None where there are none.
        pending: changes whose gain is not known yet.
    """

    decisions: tuple[DecisionStatus, ...] = ()
    fault: Fault | None = None
    words: str = ""
    holding: str = ""
    latest: tuple[Decision, ...] = ()
    changes: tuple[Decision, ...] = ()
    applied: bool = False
    gain: float | None = None
    pending: tuple[Batch, ...] = ()


def plain_time(now: float) -> str:
    """RFC 3339."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def reported(
    before: Report,
    outcome: Outcome,
    failed: Sequence[Decision],
    *,
    fault: Fault | None,
    seen: Mapping[str, Earning] | None,
    fairness: float,
    now: float,
    settled: float,
    apply: bool,
) -> Report:
    """The report after another interval.

    Args:
        before: the last one.
        outcome: what was decided.
        failed: of its changes, those that could not be carried out.
        fault: of the observation.
        seen: what drafters earned in the interval that has ended; None where it could not be seen.
        fairness: α of the utility.
        now: Unix seconds.
        settled: Unix seconds; what the interval shows is the result of changes until then.
        apply: whether decisions are carried out.
    """
    decisions, pending = list(before.decisions), before.pending
    gain: float | None = None
    for batch in pending if seen is not None else ():
        if batch.when <= settled:
            brought = gained(batch.before, seen or {}, fairness, batch.cells)
            gain = brought + (gain or 0.0)
            decisions = _with_gain(decisions, plain_time(batch.when), brought)
            pending = tuple(each for each in pending if each is not batch)
    changes = [each for each in outcome.changes if each not in failed]
    holds = [each for each in outcome.decisions if each.action is Action.HOLD]
    new = [_status(each, now, applied=apply and each not in failed) for each in outcome.changes]
    for hold in holds:
        if not new and decisions and _same_hold(decisions[0], hold):
            continue
        new.append(_status(hold, now, applied=False))
    # The most valuable first: what falls off the end of ten is what matters least.
    new.sort(key=lambda each: -(each.expected_gain or 0.0))
    if apply and changes and seen is not None:
        pending = (*pending, Batch(now, _cells(changes), seen))
    words = outcome.decisions[0].words
    return replace(
        before,
        decisions=tuple((new + decisions)[:LAST_DECISIONS]),
        fault=fault,
        words=words if fault is not None else "",
        holding="" if outcome.changes else _holding(holds),
        latest=outcome.decisions,
        changes=outcome.changes,
        applied=apply,
        gain=gain,
        pending=pending,
    )


def _cells(changes: Sequence[Decision]) -> frozenset[str] | None:
    """Whose drafters these concern: a pool's are anywhere."""
    if any(each.action is Action.SCALE for each in changes):
        return None
    return frozenset(
        cell
        for each in changes
        for cell in ((each.source, each.destination) if each.action is Action.MOVE else (each.subject,))
    )


def _holding(holds: Sequence[Decision]) -> str:
    return "; ".join(
        f"{each.reason.value}: {each.words}" if each.words else each.reason.value for each in holds
    )


def _same_hold(last: DecisionStatus, hold: Decision) -> bool:
    return (last.action, last.reason, last.subject) == (hold.action.value, hold.reason.value, hold.subject)


def _with_gain(decisions: list[DecisionStatus], when: str, gain: float) -> list[DecisionStatus]:
    """Divides what was really gained among the changes made at a time, as it was expected of them."""
    batch = [each for each in decisions if each.applied and each.time == when]
    expected = sum(each.expected_gain or 0.0 for each in batch)
    result = []
    for each in decisions:
        if each.applied and each.time == when:
            share = (each.expected_gain or 0.0) / expected if expected > 0 else 1 / len(batch)
            result.append(each.model_copy(update={"actual_gain": float(f"{share * gain:.3g}")}))
        else:
            result.append(each)
    return result


def _status(decision: Decision, now: float, *, applied: bool) -> DecisionStatus:
    return DecisionStatus(
        time=plain_time(now),
        action=decision.action.value,
        subject=decision.subject[:256],
        source=decision.source[:256],
        destination=decision.destination[:256],
        reason=decision.reason.value,
        message=decision.words[:_LONGEST],
        expected_gain=None if decision.action is Action.HOLD else float(f"{decision.expected_gain:.3g}"),
        applied=applied,
    )


def metrics_reason(fault: Fault | None) -> Reason:
    """The reason of the condition MetricsAvailable."""
    match fault:
        case Fault.MISSING:
            return Reason.METRICS_MISSING
        case Fault.STALE:
            return Reason.METRICS_STALE
        case Fault.PROMETHEUS:
            return Reason.PROMETHEUS_ERROR
        case _:
            return Reason.METRICS_FRESH


def reasons(decisions: Sequence[Decision]) -> str:
    """Their reasons without figures, which would be news in every interval."""
    return ", ".join(dict.fromkeys(each.reason.value for each in decisions))
