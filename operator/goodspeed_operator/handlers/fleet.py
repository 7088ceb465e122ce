"""From what the watches have shown to the plain data that decisions are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from goodspeed_operator.api.cluster import Spec
from goodspeed_operator.api.status import Reason
from goodspeed_operator.cluster.kinds import POD
from goodspeed_operator.handlers.observed import Child, Observation
from goodspeed_operator.rebalance.observe import scalable_pools
from goodspeed_operator.resources.assignments import Cells
from goodspeed_operator.resources.diagnosis import Trouble, diagnose, diagnose_deployment
from goodspeed_operator.resources.naming import (
    COMPONENT_LABEL,
    DRAFTER,
    POOL_LABEL,
    REVISION_LABEL,
    SERVES,
    VERIFIER,
)
from goodspeed_operator.resources.rollout import PoolRollout, VerifierSet
from goodspeed_operator.resources.status import Cell, Pool
from goodspeed_operator.resources.verifiers import cells_from

UNSCHEDULABLE_SECONDS = 20.0
"""A scheduler that has just lost a pod needs a moment to find the room it left."""

SILENT_POD_SECONDS = 20.0
SILENT_SET_SECONDS = 5.0

Children = Mapping[Child, Observation]


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod, as far as decisions look at it."""

    name: str
    component: str
    revision: str
    ready: bool
    address: str
    trouble: Trouble | None
    uid: str
    stuck: bool
    unschedulable_since: float | None


def pods_of(children: Children, now: float) -> list[PodView]:
    """The cluster's pods at Unix time ``now``, those being deleted left out."""
    return [
        _pod(child.name, seen, now)
        for child, seen in children.items()
        if child.kind is POD and "deletionTimestamp" not in seen.metadata
    ]


def _pod(name: str, seen: Observation, now: float) -> PodView:
    labels = seen.metadata.get("labels", {})
    conditions = {found.get("type"): found for found in seen.status.get("conditions") or ()}
    ready = conditions.get("Ready", {}).get("status") == "True"
    trouble = None if ready else diagnose(name, seen.status)
    since = None
    if trouble is not None and trouble.reason is Reason.UNSCHEDULABLE:
        since = _seconds(conditions["PodScheduled"].get("lastTransitionTime"))
    return PodView(
        name=name,
        component=labels.get(COMPONENT_LABEL, ""),
        revision=labels.get(REVISION_LABEL, ""),
        ready=ready,
        address=seen.status.get("podIP", ""),
        trouble=trouble,
        uid=seen.metadata.get("uid", ""),
        stuck=trouble is None
        and _silent(seen.status, now - _seconds(seen.metadata.get("creationTimestamp"))),
        unschedulable_since=since,
    )


def _silent(status: Mapping[str, Any], age: float) -> bool:
    """Whether a pod has a node, yet nothing of it has run for long: its volumes, say, are not there."""
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    begun = any({"running", "terminated"} & (found.get("state") or {}).keys() for found in containers)
    return status.get("phase") == "Pending" and not begun and age >= SILENT_POD_SECONDS


def _seconds(time: str | None) -> float:
    return datetime.fromisoformat(time).timestamp() if time else 0.0


def verifier_sets(children: Children, pods: list[PodView], now: float) -> list[VerifierSet]:
    """The StatefulSets of cells, by the target's revision."""
    result = []
    for child, seen in children.items():
        revision = seen.metadata.get("labels", {}).get(REVISION_LABEL)
        if child.kind.kind != "StatefulSet" or not revision or "deletionTimestamp" in seen.metadata:
            continue
        waiting = any(
            pod.unschedulable_since is not None and now - pod.unschedulable_since >= UNSCHEDULABLE_SECONDS
            for pod in pods
            if pod.component == VERIFIER and pod.revision == revision
        )
        ready = seen.status.get("readyReplicas", 0)
        result.append(VerifierSet(revision, seen.spec.get("replicas", 1), ready, waiting))
    return sorted(result, key=lambda found: found.revision)


def pools_of(children: Children) -> list[Pool]:
    """The pools that have a Deployment."""
    result = []
    for child, seen in children.items():
        pool = seen.metadata.get("labels", {}).get(POOL_LABEL)
        if child.kind.kind == "Deployment" and pool:
            result.append(_pool(pool, seen))
    return sorted(result, key=lambda found: found.name)


def _pool(name: str, seen: Observation) -> Pool:
    status, wanted = seen.status, seen.spec.get("replicas", 1)
    replicas, ready = status.get("replicas", 0), status.get("readyReplicas", 0)
    current = status.get("observedGeneration", 0) >= seen.metadata.get("generation", 0)
    return Pool(
        name=name,
        revision=seen.metadata["labels"].get(REVISION_LABEL, ""),
        wanted=wanted,
        replicas=replicas,
        ready=ready,
        complete=current and replicas == status.get("updatedReplicas", 0) == ready == wanted,
    )


def sizes(spec: Spec, children: Children, decided: Mapping[str, int]) -> dict[str, int]:
    """How many drafters pools should have that rebalancing may size: as decided, else as many as there are.

    What is there outlives the operator, so that a restart shrinks nothing.
    """
    there = {pool.name: pool.wanted for pool in pools_of(children)}
    return {
        name: count
        for name in scalable_pools(spec)
        if (count := decided.get(name, there.get(name))) is not None
    }


def rollouts(pools: list[Pool]) -> list[PoolRollout]:
    """The pools as the plan of a rollout looks at them."""
    return [PoolRollout(pool.name, pool.revision, pool.complete) for pool in pools]


def other_cells(children: Children, replicas: Mapping[str, int], revision: str) -> list[Cells]:
    """The cells of other targets that the plan keeps, as their StatefulSets say they are."""
    result = []
    for child, seen in children.items():
        found: dict[str, Any] = seen.metadata
        name = found.get("labels", {}).get(REVISION_LABEL, "")
        if child.kind.kind != "StatefulSet" or name == revision or name not in replicas:
            continue
        try:
            result.append(cells_from(found.get("annotations", {}).get(SERVES, ""), replicas[name]))
        except ValueError:
            continue  # not as the operator wrote it: it cannot be rendered again, and goes
    return result


def cells_of(pods: list[PodView]) -> list[Cell]:
    """The verifier pods."""
    return [Cell(pod.name, pod.revision, pod.ready) for pod in pods if pod.component == VERIFIER]


def troubles_of(children: Children, pods: list[PodView], component: str) -> list[Trouble]:
    """What is wrong with a role's pods and Deployments.

    A pod that its node has put out stays to be looked at, and is no trouble once others serve in its place.
    """
    found = [pod.trouble for pod in pods if pod.component == component]
    if all(pod.ready or _put_out(pod) for pod in pods if pod.component == component):
        found = []
    found += [
        diagnose_deployment(child.name, seen.status)
        for child, seen in children.items()
        if child.kind.kind == "Deployment"
        and seen.metadata.get("labels", {}).get(COMPONENT_LABEL) == component
    ]
    return sorted((trouble for trouble in found if trouble), key=lambda trouble: trouble.name)


def _put_out(pod: PodView) -> bool:
    return pod.trouble is not None and pod.trouble.reason is Reason.EVICTED


@dataclass(frozen=True, slots=True)
class Silent:
    """Something that does not come forward, and whose status does not say why; events may."""

    kind: str
    name: str
    uid: str
    component: str


def silent(children: Children, pods: list[PodView], now: float) -> list[Silent]:
    """The StatefulSets that lack pods, and the pods that nothing of has run."""
    found = [Silent("pod", pod.name, pod.uid, pod.component) for pod in pods if pod.stuck]
    for child, seen in children.items():
        if child.kind.kind != "StatefulSet" or "deletionTimestamp" in seen.metadata:
            continue
        age = now - _seconds(seen.metadata.get("creationTimestamp"))
        if seen.status.get("replicas", 0) < seen.spec.get("replicas", 1) and age >= SILENT_SET_SECONDS:
            found.append(Silent("StatefulSet", child.name, seen.metadata.get("uid", ""), VERIFIER))
    return found


__all__ = [
    "DRAFTER",
    "VERIFIER",
    "PodView",
    "cells_of",
    "other_cells",
    "pods_of",
    "pools_of",
    "rollouts",
    "silent",
    "troubles_of",
    "verifier_sets",
]
