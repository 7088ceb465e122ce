"""From what is observed to the status of a cluster: conditions, figures, one line for people.

A pure function. What has not changed keeps its transition time, so that the
same observation gives the same status and nothing is written at rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.status import (
    CellStatus,
    Condition,
    ConditionType,
    DrafterStatus,
    PoolStatus,
    Reason,
    Status,
    VerifierStatus,
)
from goodspeed_operator.rebalance.report import Report, metrics_reason, reasons
from goodspeed_operator.resources.assignments import cells_of_pools
from goodspeed_operator.resources.diagnosis import Trouble
from goodspeed_operator.resources.figures import FleetFigures
from goodspeed_operator.resources.naming import VERIFIER, selector
from goodspeed_operator.resources.rollout import RolloutPlan, Step

LONGEST_MESSAGE = 4096


@dataclass(frozen=True, slots=True)
class Cell:
    """One verifier pod: its name, its target's revision, and whether it serves."""

    name: str
    revision: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool's Deployment.

    Attributes:
        name: of the pool.
        revision: of the target its pods are told.
        wanted: drafters there should be.
        replicas: drafters there are.
        ready: drafters that serve.
        complete: all pods are as the Deployment says.
    """

    name: str
    revision: str
    wanted: int
    replicas: int
    ready: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is observed of a cluster.

    Attributes:
        cells: verifier pods.
        pools: the pools that have a Deployment.
        verifier_troubles: pods that do not run, and why.
        drafter_troubles: likewise.
        refusals: what the API server would not store, in its own words.
        figures: of the metrics, None while there are none to expect.
        metrics_missing: verifier pods that serve but whose metrics could not be read.
        rebalancing: how it stands; None until it has decided once, and while it is off.
    """

    cells: Sequence[Cell] = ()
    pools: Sequence[Pool] = ()
    verifier_troubles: Sequence[Trouble] = ()
    drafter_troubles: Sequence[Trouble] = ()
    refusals: Sequence[Trouble] = ()
    figures: FleetFigures = field(default_factory=FleetFigures)
    metrics_missing: Sequence[str] = ()
    rebalancing: Report | None = None


@dataclass(frozen=True, slots=True)
class _Finding:
    type: ConditionType
    holds: bool
    reason: Reason
    message: str


def status_of(cluster: GoodSpeedCluster, fleet: Fleet, plan: RolloutPlan, now: str) -> Status:
    """The cluster's status.

    Args:
        cluster: spec, and the status as it was.
        fleet: what is observed.
        plan: where a change of target stands.
        now: time of this observation, RFC 3339.
    """
    serving = [cell for cell in fleet.cells if cell.revision == plan.drafters]
    wanted = plan.replicas.get(plan.drafters, 0)
    ready = sum(cell.ready for cell in serving)
    drafters_wanted = sum(pool.wanted for pool in fleet.pools)
    drafters_ready = sum(pool.ready for pool in fleet.pools)
    verifier = _verifiers(cluster, fleet, ready, wanted)
    drafters = _drafters(cluster, fleet)
    findings = [
        _ready(verifier, drafters, plan, resting=cluster.spec.verifier.replicas == 0),
        verifier,
        drafters,
        _metrics(fleet, ready),
        _rebalancing(cluster, fleet.rebalancing),
        _degraded(fleet),
    ]
    return Status(
        observed_generation=cluster.metadata.generation,
        conditions=_conditions(findings, cluster, now),
        revision=plan.drafters,
        rollout="" if plan.step is Step.STEADY else plan.step.value,
        verifiers=VerifierStatus(
            replicas=len(fleet.cells),
            ready_replicas=ready,
            selector=",".join(f"{key}={value}" for key, value in selector(cluster, VERIFIER).items()),
            summary=f"{ready}/{wanted}",
        ),
        drafters=DrafterStatus(
            replicas=sum(pool.replicas for pool in fleet.pools),
            ready_replicas=drafters_ready,
            summary=f"{drafters_ready}/{drafters_wanted}",
        ),
        goodput=f"{fleet.figures.goodput:.3g} tok/s" if fleet.figures.cells else "",
        fairness="" if fleet.figures.jain_index is None else f"{fleet.figures.jain_index:.2f}",
        cells=_cells(fleet),
        pools=_pools(cluster, fleet, wanted),
        decisions=list(fleet.rebalancing.decisions) if fleet.rebalancing else cluster.status.decisions,
    )


def unreconciled(
    cluster_status: Mapping[str, Any], generation: int, reason: Reason, words: str, now: str
) -> dict[str, Any]:
    """The status of a cluster whose spec cannot be read or acted on: as it was, with the reason on top."""
    message = words[:LONGEST_MESSAGE]
    before = {found.get("type"): found for found in cluster_status.get("conditions") or ()}
    for kind, holds in ((ConditionType.READY, "False"), (ConditionType.DEGRADED, "True")):
        was = before.get(kind.value, {})
        before[kind.value] = {
            "type": kind.value,
            "status": holds,
            "reason": reason.value,
            "message": message,
            "lastTransitionTime": was.get("lastTransitionTime", now) if was.get("status") == holds else now,
            "observedGeneration": generation,
        }
    return {**cluster_status, "observedGeneration": generation, "conditions": list(before.values())}


def _short_of(cluster: GoodSpeedCluster, kind: ConditionType) -> Reason:
    """Starting until it has been ready once; NotReady from then on."""
    was = next((found for found in cluster.status.conditions if found.type == kind), None)
    begun = was is not None and was.reason in {Reason.ALL_READY, Reason.NOT_READY, Reason.ROLLING_OUT}
    return Reason.NOT_READY if begun else Reason.STARTING


def _verifiers(cluster: GoodSpeedCluster, fleet: Fleet, ready: int, wanted: int) -> _Finding:
    kind = ConditionType.VERIFIER_READY
    if wanted and ready >= wanted:
        return _Finding(kind, True, Reason.ALL_READY, f"{ready} of {wanted} cells serve")
    if wanted == 0:
        return _Finding(kind, False, Reason.RESTING, "spec.verifier.replicas is 0")
    counted = f"{ready} of {wanted} cells serve"
    if troubles := [*fleet.verifier_troubles, *fleet.refusals]:
        return _troubled(kind, counted, troubles)
    return _Finding(kind, False, _short_of(cluster, kind), counted)


def _drafters(cluster: GoodSpeedCluster, fleet: Fleet) -> _Finding:
    kind = ConditionType.DRAFTERS_READY
    short = [pool for pool in fleet.pools if pool.ready < pool.wanted]
    missing = len(cluster.spec.drafters) - len(fleet.pools)
    if not short and missing <= 0:
        total = sum(pool.ready for pool in fleet.pools)
        return _Finding(kind, True, Reason.ALL_READY, f"{total} drafters of {len(fleet.pools)} pools serve")
    counted = ", ".join(f"pool {pool.name}: {pool.ready} of {pool.wanted} drafters serve" for pool in short)
    counted = counted or f"{missing} pools are being made"
    if troubles := [*fleet.drafter_troubles, *fleet.refusals]:
        return _troubled(kind, counted, troubles)
    return _Finding(kind, False, _short_of(cluster, kind), counted)


def _troubled(kind: ConditionType, counted: str, troubles: Sequence[Trouble]) -> _Finding:
    words = "; ".join(str(trouble) for trouble in troubles[:3])
    return _Finding(kind, False, troubles[0].reason, f"{counted}; {words}")


def _ready(verifier: _Finding, drafters: _Finding, plan: RolloutPlan, *, resting: bool) -> _Finding:
    kind = ConditionType.READY
    if resting:
        return _Finding(kind, False, Reason.RESTING, "spec.verifier.replicas is 0")
    for part in (verifier, drafters):
        if not part.holds:
            return _Finding(kind, False, part.reason, part.message)
    if plan.step is not Step.STEADY:
        return _Finding(
            kind, True, Reason.ROLLING_OUT, f"serving while the target changes: {plan.step.value}"
        )
    return _Finding(kind, True, Reason.ALL_READY, f"{verifier.message}; {drafters.message}")


def _metrics(fleet: Fleet, ready: int) -> _Finding:
    kind = ConditionType.METRICS_AVAILABLE
    if fleet.metrics_missing:
        return _Finding(
            kind, False, Reason.METRICS_MISSING, f"no metrics from {', '.join(fleet.metrics_missing)}"
        )
    if not ready:
        return _Finding(kind, False, Reason.METRICS_MISSING, "no verifier serves yet")
    report = fleet.rebalancing
    if report is not None and metrics_reason(report.fault) is not Reason.METRICS_FRESH:
        return _Finding(kind, False, metrics_reason(report.fault), report.words)
    return _Finding(kind, True, Reason.METRICS_FRESH, "read from every verifier that serves")


def _rebalancing(cluster: GoodSpeedCluster, report: Report | None) -> _Finding:
    kind = ConditionType.REBALANCING
    if cluster.spec.rebalance.mode == "Off":
        return _Finding(kind, False, Reason.REBALANCE_OFF, "spec.rebalance.mode is Off")
    if report is None:
        return _Finding(kind, False, Reason.HOLDING, "nothing has been observed yet")
    if not report.changes:
        return _Finding(kind, False, Reason.HOLDING, reasons(report.latest))
    words = f"{len(report.changes)} changes: {reasons(report.changes)}"
    if cluster.spec.rebalance.mode == "Recommend":
        return _Finding(kind, False, Reason.RECOMMENDING, f"{words}; see decisions")
    return _Finding(kind, True, Reason.APPLYING, words)


def _degraded(fleet: Fleet) -> _Finding:
    kind = ConditionType.DEGRADED
    troubles = [*fleet.refusals, *fleet.verifier_troubles, *fleet.drafter_troubles]
    if troubles:
        return _Finding(kind, True, troubles[0].reason, "; ".join(str(found) for found in troubles[:5]))
    return _Finding(kind, False, Reason.AS_EXPECTED, "")


def _conditions(findings: Sequence[_Finding], cluster: GoodSpeedCluster, now: str) -> list[Condition]:
    before = {condition.type: condition for condition in cluster.status.conditions}
    result = []
    for finding in findings:
        status = "True" if finding.holds else "False"
        was = before.get(finding.type)
        result.append(
            Condition.model_validate(
                {
                    "type": finding.type,
                    "status": status,
                    "reason": finding.reason,
                    "message": finding.message[:LONGEST_MESSAGE],
                    "lastTransitionTime": was.last_transition_time if was and was.status == status else now,
                    "observedGeneration": cluster.metadata.generation,
                }
            )
        )
    return result


def _significant(value: float | None) -> float | None:
    """Three digits: a figure that trembles in the fourth is no news."""
    return None if value is None else max(0.0, float(f"{value:.3g}"))


def _cells(fleet: Fleet) -> list[CellStatus]:
    result = []
    for cell in sorted(fleet.cells, key=lambda found: found.name):
        figures = fleet.figures.cells.get(cell.name)
        result.append(
            CellStatus(
                name=cell.name,
                ready=cell.ready,
                drafters=figures.drafters if figures else 0,
                budget_tokens=figures.budget_tokens if figures else None,
                shadow_price=_significant(figures.shadow_price) if figures else None,
                goodput_tokens_per_second=_significant(figures.goodput) if figures else None,
                round_seconds=_significant(figures.round_seconds) if figures else None,
            )
        )
    return result


def _pools(cluster: GoodSpeedCluster, fleet: Fleet, cells: int) -> list[PoolStatus]:
    ordinals = cells_of_pools(cluster.spec, {}, cells)
    observed = {pool.name: pool for pool in fleet.pools}
    result = []
    for spec in cluster.spec.drafters:
        pool = observed.get(spec.name)
        figures = fleet.figures.pools.get(spec.name)
        result.append(
            PoolStatus(
                name=spec.name,
                model=spec.model,
                cells=list(ordinals[spec.name]),
                revision=pool.revision if pool else "",
                replicas=pool.replicas if pool else 0,
                ready_replicas=pool.ready if pool else 0,
                acceptance_ratio=_significant(figures.acceptance) if figures else None,
                grant_tokens=_significant(figures.grant_tokens) if figures else None,
                goodput_tokens_per_second=_significant(figures.goodput) if figures else None,
            )
        )
    return result
