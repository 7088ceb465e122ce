"""One reconcile: from what is observed to what should be, to the calls that make it so.

Level-triggered: it asks what is, never what happened, and may run at any
moment, twice, or after an hour's absence with the same end. Decisions are the
pure functions of `resources`; here is only the order of calls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.loading import ClusterError, parse_cluster
from goodspeed_operator.api.status import ConditionType, Reason
from goodspeed_operator.cluster.client import HANDOVER_MANAGER, APIError, KubernetesAPI
from goodspeed_operator.cluster.kinds import CHILDREN, Manifest, kind_of
from goodspeed_operator.handlers.fleet import (
    DRAFTER,
    VERIFIER,
    PodView,
    cells_of,
    other_cells,
    pods_of,
    pools_of,
    rollouts,
    silent,
    sizes,
    troubles_of,
    verifier_sets,
)
from goodspeed_operator.handlers.observed import AppliedDigests, Child, Key, Observation, Observed
from goodspeed_operator.handlers.rebalancing import Rebalancing
from goodspeed_operator.handlers.words import WarningEvents
from goodspeed_operator.resources.assignments import Assignments, Cells, current_cells, revision_of
from goodspeed_operator.resources.diagnosis import Trouble, diagnose_event, short
from goodspeed_operator.resources.figures import FleetFigures, Reading, figures_of
from goodspeed_operator.resources.fleet import desired
from goodspeed_operator.resources.rollout import RolloutPlan, Step, plan_rollout
from goodspeed_operator.resources.status import Fleet, status_of, unreconciled

logger = logging.getLogger(__name__)

ROLLOUT_SECONDS = 10.0
"""While a target changes: nothing tells when a pod has waited long enough for room."""
UNREADY_SECONDS = 10.0
"""While something is missing: nothing tells when it has been silent for too long."""
REFUSED_SECONDS = 60.0
"""Until what the API server refused is tried again."""


class NamespaceGoingError(Exception):
    """The namespace is being deleted, and the cluster with it."""


class Reconciler:
    """Makes one cluster as its spec says, once, each time it is asked."""

    def __init__(
        self,
        api: KubernetesAPI,
        observed: Observed,
        readings: dict[Key, dict[str, Reading | None]],
        *,
        image: str,
        pod_monitors: bool,
        rebalancing: Rebalancing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Binds a reconciler to what it reads and writes.

        Args:
            api: where to write.
            observed: what is there.
            readings: the last metrics of each cluster's verifier pods; None where they could not be read.
            image: of pods whose spec names none.
            pod_monitors: whether the API server knows PodMonitors.
            rebalancing: what it has decided, and how it stands; None decides nothing.
            clock: Unix seconds.
        """
        self._rebalancing = rebalancing
        self._api = api
        self._observed = observed
        self._readings = readings
        self._image = image
        self._pod_monitors = pod_monitors
        self._clock = clock
        self._applied = AppliedDigests()
        self._warnings = WarningEvents(api)

    async def reconcile(self, key: Key) -> float | None:
        """Reconciles one cluster; returns the seconds until it wants to be looked at again, if any.

        Raises:
            APIError: the API failed in a way that may pass.
        """
        body = self._observed.cluster(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            for child in self._observed.children(key):
                self._applied.forget(child)
            return None
        try:
            cluster = parse_cluster(body)
        except ClusterError as error:
            await self._explain(key, body, Reason.SPEC_INVALID, str(error))
            return None
        pods = pods_of(self._observed.children(key), self._clock())
        plan = self._plan(key, cluster, pods)
        try:
            refusals = await self._apply(key, cluster, plan)
        except NamespaceGoingError:
            return None
        await self._prune(key, cluster, plan)
        # Our own calls have changed what is there; the watches will say so and bring us back.
        fleet = self._fleet(key, pods, refusals, await self._events(key, pods))
        status = status_of(cluster, fleet, plan, self._now()).plain()
        await self._write_status(key, body, status)
        if plan.step is not Step.STEADY:
            return ROLLOUT_SECONDS
        if refusals:
            return REFUSED_SECONDS
        ready = any(found["type"] == "Ready" and found["status"] == "True" for found in status["conditions"])
        return None if ready or not cluster.spec.verifier.replicas else UNREADY_SECONDS

    async def failed(self, key: Key, error: Exception) -> None:
        """Says in the cluster's conditions that the operator itself has failed on it.

        Raises:
            APIError: the API failed.
        """
        body = self._observed.cluster(key)
        if body is not None and "deletionTimestamp" not in body["metadata"]:
            words = f"the operator failed on this cluster, and tries again: {type(error).__name__}: {error}"
            await self._explain(key, body, Reason.INTERNAL_ERROR, words)

    async def _explain(self, key: Key, body: Manifest, reason: Reason, words: str) -> None:
        generation = body["metadata"].get("generation", 0)
        status = unreconciled(body.get("status") or {}, generation, reason, words, self._now())
        await self._write_status(key, body, status)

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    async def _events(self, key: Key, pods: list[PodView]) -> list[tuple[str, Trouble]]:
        """What events say about objects that do not come forward, by role."""
        found = []
        for each in silent(self._observed.children(key), pods, self._clock()):
            reason, message = await self._warnings.last(key.namespace, each.uid)
            if trouble := diagnose_event(each.kind, each.name, reason, message):
                found.append((each.component, trouble))
        return found

    def _plan(self, key: Key, cluster: GoodSpeedCluster, pods: list[PodView]) -> RolloutPlan:
        children = self._observed.children(key)
        return plan_rollout(
            revision_of(cluster.spec.target),
            cluster.spec.verifier.replicas,
            verifier_sets(children, pods, self._clock()),
            rollouts(pools_of(children)),
        )

    def _desired(self, key: Key, cluster: GoodSpeedCluster, plan: RolloutPlan) -> list[Manifest]:
        revision = revision_of(cluster.spec.target)
        children = self._observed.children(key)
        newest = current_cells(cluster.spec)
        cells = [
            Cells(newest.target, newest.verifier, plan.replicas.get(revision, 0)),
            *other_cells(children, plan.replicas, revision),
        ]
        decided = self._rebalancing.replicas.get(key, {}) if self._rebalancing else {}
        replicas = sizes(cluster.spec, children, decided)
        assignments = Assignments(cells=tuple(cells), attached=plan.drafters, replicas=replicas)
        return desired(cluster, assignments, image=self._image, pod_monitors=self._pod_monitors)

    async def _apply(self, key: Key, cluster: GoodSpeedCluster, plan: RolloutPlan) -> list[Trouble]:
        """Applies what is not known to be current; returns what the API would not store."""
        refusals: list[Trouble] = []
        for manifest in self._desired(key, cluster, plan):
            child = Child.of(kind_of(manifest), manifest)
            seen = self._observed.children(key).get(child)
            intruded = seen is not None and _intruded(manifest, seen)
            if not intruded and self._applied.current(child, manifest, seen):
                continue
            try:
                if seen is None and await self._taken(child, cluster):
                    words = "exists and belongs to someone else; delete it, or name the cluster otherwise"
                    refusals.append(Trouble(child.name, Reason.NAME_TAKEN, words, child.kind.kind))
                    continue
                if seen is not None:
                    await self._hand_over(manifest, seen)
                if intruded:
                    replicas = _sets_replicas(manifest)
                    await self._api.take_over(child.kind, child.namespace, child.name, replicas=replicas)
                stored = await self._api.apply(manifest)
            except APIError as error:
                terminating = error.status == 403 and "being terminated" in error.message
                if terminating or (error.status == 404 and error.message.startswith("namespaces ")):
                    raise NamespaceGoingError from error
                if not error.permanent and error.status != 403:
                    raise
                words = short(error.message or error.reason)
                refusals.append(Trouble(child.name, Reason.APPLY_REFUSED, words, child.kind.kind))
                continue
            self._applied.record(child, manifest, stored)
            self._observed.see_child(child.kind, {**stored, **_head(manifest)}, deleted=False)
        return refusals

    async def _taken(self, child: Child, cluster: GoodSpeedCluster) -> bool:
        """Whether somebody else's object has the name."""
        there = await self._api.get(child.kind, child.namespace, child.name)
        return there is not None and not _owned(there["metadata"], cluster.metadata.uid)

    async def _hand_over(self, manifest: Manifest, seen: Observation) -> None:
        """Leaves the number of replicas as it is when a pool becomes someone else's to scale.

        Dropping a field that we alone own would remove it, and the default of one
        replica would take its place.
        """
        if manifest["kind"] != "Deployment" or "replicas" in manifest["spec"] or not seen.owns_replicas:
            return
        metadata = {key: manifest["metadata"][key] for key in ("name", "namespace")}
        await self._api.apply(
            {**_head(manifest), "metadata": metadata, "spec": {"replicas": seen.spec.get("replicas", 1)}},
            manager=HANDOVER_MANAGER,
        )

    async def _prune(self, key: Key, cluster: GoodSpeedCluster, plan: RolloutPlan) -> None:
        """Deletes children that no longer should be there."""
        wanted = {Child.of(kind_of(found), found) for found in self._desired(key, cluster, plan)}
        for child, seen in list(self._observed.children(key).items()):
            mine = child.kind in CHILDREN and _owned(seen.metadata, cluster.metadata.uid)
            if child in wanted or not mine or "deletionTimestamp" in seen.metadata:
                continue
            logger.info("%s: deleting %s %s, which is no longer wanted", key, child.kind.kind, child.name)
            await self._api.delete(child.kind, child.namespace, child.name, uid=seen.metadata["uid"])
            self._applied.forget(child)

    def _fleet(
        self, key: Key, pods: list[PodView], refusals: list[Trouble], events: list[tuple[str, Trouble]]
    ) -> Fleet:
        children = self._observed.children(key)

        def troubles(role: str) -> list[Trouble]:
            return troubles_of(children, pods, role) + [found for of, found in events if of == role]

        readings = self._readings.get(key, {})
        serving = {pod.name for pod in pods if pod.component == VERIFIER and pod.ready}
        read = {pod: reading for pod, reading in readings.items() if pod in serving and reading is not None}
        missing = sorted(pod for pod in serving if pod in readings and readings[pod] is None)
        return Fleet(
            cells=cells_of(pods),
            pools=pools_of(children),
            verifier_troubles=troubles(VERIFIER),
            drafter_troubles=troubles(DRAFTER),
            refusals=refusals,
            figures=figures_of(read) if read else FleetFigures(),
            metrics_missing=missing,
            rebalancing=self._rebalancing.reports.get(key) if self._rebalancing else None,
        )

    async def _write_status(self, key: Key, body: Manifest, status: dict[str, Any]) -> None:
        if status == body.get("status"):
            return
        stored = await self._api.patch_status(key.namespace, key.name, status)
        if stored is not None:
            # The watch will bring it too; until then this is what was written.
            self._observed.see_cluster(stored)
            await self._tell(body, status)

    async def _tell(self, body: Manifest, status: dict[str, Any]) -> None:
        """Events for what a person would want to know: readiness, trouble, steps of a rollout."""
        old_status = body.get("status") or {}
        before = {found["type"]: found for found in old_status.get("conditions") or ()}
        for condition in status.get("conditions", ()):
            kind = condition["type"]
            if kind not in {ConditionType.READY.value, ConditionType.DEGRADED.value}:
                continue
            was = before.get(kind, {})
            if (was.get("status"), was.get("reason")) == (condition["status"], condition["reason"]):
                continue
            bad = (condition["status"] == "True") == (kind == ConditionType.DEGRADED.value)
            if kind == ConditionType.DEGRADED.value and not bad and not was:
                continue
            await self._api.post_event(
                body,
                warning=bad and condition["reason"] not in {"Starting", "Resting"},
                reason=condition["reason"],
                message=condition.get("message") or f"{kind} is {condition['status']}",
            )
        step = status.get("rollout", "")
        if step and step != old_status.get("rollout", ""):
            await self._api.post_event(body, warning=False, reason=step, message="the target model changes")


def _head(manifest: Manifest) -> Manifest:
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}


def _sets_replicas(manifest: Manifest) -> bool:
    """Whether the number of pods is ours; what has none has nobody else's either."""
    return manifest["kind"] != "Deployment" or "replicas" in manifest["spec"]


def _intruded(manifest: Manifest, seen: Observation) -> bool:
    return seen.intruded_replicas if _sets_replicas(manifest) else seen.intruded


def _owned(metadata: dict[str, Any], uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in metadata.get("ownerReferences") or ())
