"""The slow loop of every cluster: what it decides goes to pods at once, or into the next reconcile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable

import httpx

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.loading import ClusterError, parse_cluster
from goodspeed_operator.api.scalars import seconds
from goodspeed_operator.api.status import Reason
from goodspeed_operator.cluster.client import KubernetesAPI
from goodspeed_operator.cluster.kinds import POD
from goodspeed_operator.cluster.rebalancer import Interval, Rebalancer
from goodspeed_operator.handlers.fleet import Children, pods_of, pools_of
from goodspeed_operator.handlers.metrics import OperatorMetrics
from goodspeed_operator.handlers.observed import Key, Observed
from goodspeed_operator.rebalance.observe import Members, Place, scalable_pools
from goodspeed_operator.rebalance.report import Report, metrics_reason
from goodspeed_operator.resources.naming import (
    DRAFTER,
    DRAFTER_HTTP_PORT,
    POOL_LABEL,
    VERIFIER,
    VERIFIER_HTTP_PORT,
)
from goodspeed_runtime.rebalancing.decision import Action, Decision

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
EVENTS_AT_ONCE = 10


class Rebalancing:
    """One loop a cluster.

    Attributes:
        reports: where each stands, for status.
        replicas: sizes of pools that were decided.
    """

    def __init__(
        self,
        api: KubernetesAPI,
        observed: Observed,
        metrics: OperatorMetrics,
        changed: Callable[[Key], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Binds the loops to what they read and write.

        Args:
            api: for events.
            observed: what is there.
            metrics: the operator's.
            changed: told when a report or a size has changed.
            clock: Unix seconds.
        """
        self._api = api
        self._observed = observed
        self._metrics = metrics
        self._changed = changed
        self._clock = clock
        self._loops: dict[Key, Rebalancer] = {}
        self._due: dict[Key, float] = {}
        self._running: set[Key] = set()
        self.reports: dict[Key, Report] = {}
        self.replicas: dict[Key, dict[str, int]] = defaultdict(dict)

    async def run(self, http: httpx.AsyncClient) -> None:
        """Decides for each cluster once its interval until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                known = set(self._observed.clusters())
                for key in [key for key in self._loops if key not in known]:
                    self._forget(key)
                now = time.monotonic()
                for key in known - self._running:
                    if self._due.get(key, now) <= now:
                        self._running.add(key)
                        tasks.create_task(self._one(http, key), name=f"rebalance {key}")
                await asyncio.sleep(LOOK_SECONDS)

    async def _one(self, http: httpx.AsyncClient, key: Key) -> None:
        interval = 30.0
        try:
            cluster = self._cluster(key)
            if cluster is None:
                return
            interval = seconds(cluster.spec.rebalance.interval)
            if cluster.spec.rebalance.mode == "Off":
                self.reports.pop(key, None)
                self._loops.pop(key, None)
                return
            loop = self._loops.get(key)
            if loop is None:
                before = Report(decisions=tuple(cluster.status.decisions))
                loop = self._loops[key] = Rebalancer(http, self._clock, before)
            was, began = loop.report, time.perf_counter()
            members = members_of(cluster, self._observed.children(key), self._clock())
            found = await loop.step(cluster, members)
            self._metrics.rebalance_seconds.observe(time.perf_counter() - began)
            await self._take(key, was, found)
        except Exception:
            # A fault here must not end the loops of other clusters; nothing was changed for this one.
            logger.exception("%s: rebalancing failed", key)
            self._metrics.rebalance_errors.inc()
        finally:
            self._due[key] = time.monotonic() + interval
            self._running.discard(key)

    def _cluster(self, key: Key) -> GoodSpeedCluster | None:
        body = self._observed.cluster(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            return None
        try:
            return parse_cluster(body)
        except ClusterError:
            return None  # its status says so already

    async def _take(self, key: Key, was: Report, found: Interval) -> None:
        report = self.reports[key] = found.report
        self.replicas[key].update(found.replicas)
        self._count(key, report)
        if report != was or found.replicas:
            self._changed(key)
        body = self._observed.cluster(key)
        if body is None:
            return
        for what, message in events(report)[:EVENTS_AT_ONCE]:
            await self._api.post_event(body, warning=False, reason=what, message=message)
        if metrics_reason(report.fault) not in {Reason.METRICS_FRESH, metrics_reason(was.fault)}:
            await self._api.post_event(
                body,
                warning=True,
                reason=metrics_reason(report.fault).value,
                message=f"rebalancing holds: {report.words}",
            )

    def _count(self, key: Key, report: Report) -> None:
        names = (key.namespace, key.name)
        for each in report.latest:
            self._metrics.rebalance_decisions.labels(each.action.value, each.reason.value).inc()
        fresh = metrics_reason(report.fault) is Reason.METRICS_FRESH
        self._metrics.metrics_available.labels(*names).set(fresh)
        expected = sum(each.expected_gain for each in report.changes)
        if report.changes:
            self._metrics.expected_gain.labels(*names).set(expected)
        if report.gain is not None:
            self._metrics.actual_gain.labels(*names).set(report.gain)

    def _forget(self, key: Key) -> None:
        self._loops.pop(key, None)
        self._due.pop(key, None)
        self.reports.pop(key, None)
        self.replicas.pop(key, None)
        self._metrics.forget(key.namespace, key.name)


def members_of(cluster: GoodSpeedCluster, children: Children, now: float) -> Members:
    """The pods that serve, and whether anything of the fleet is still changing."""
    revision = cluster.status.revision
    pods = pods_of(children, now)
    cells = [pod for pod in pods if pod.component == VERIFIER and pod.revision == revision]
    of_pool = {
        child.name: seen.metadata.get("labels", {}).get(POOL_LABEL, "")
        for child, seen in children.items()
        if child.kind is POD
    }
    drafters = [pod for pod in pods if pod.component == DRAFTER and pod.ready and pod.address]
    pools = pools_of(children)
    changing = [pool.name for pool in pools if not pool.complete]
    down = sorted(pod.name for pod in cells if not (pod.ready and pod.address))
    unsettled = ""
    if cluster.status.rollout:
        unsettled = f"the target changes: {cluster.status.rollout}"
    elif down:
        unsettled = f"{down[0]} does not serve"
    elif changing:
        unsettled = f"pool {changing[0]} is being changed"
    return Members(
        cells=tuple(Place(pod.name, _url(pod.address, VERIFIER_HTTP_PORT)) for pod in cells),
        drafters=tuple(
            Place(pod.name, _url(pod.address, DRAFTER_HTTP_PORT), pool=of_pool.get(pod.name, ""))
            for pod in drafters
        ),
        replicas={pool.name: pool.wanted for pool in pools},
        ready=Counter(of_pool.get(pod.name, "") for pod in drafters),
        scalable=scalable_pools(cluster.spec),
        unsettled=unsettled,
    )


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def events(report: Report) -> list[tuple[str, str]]:
    """Reason and message of each change; moves between the same two cells are one."""
    verb = "" if report.applied else "recommended: "
    moves: dict[tuple[str, str], list[Decision]] = {}
    found = []
    for each in report.changes:
        if each.action is Action.MOVE:
            moves.setdefault((each.source, each.destination), []).append(each)
        else:
            words = f"{verb}{each.subject} from {each.source} to {each.destination}: {each.words}"
            found.append((each.action.value, words))
    for (source, destination), batch in moves.items():
        names = ", ".join(each.subject for each in batch[:5]) + (", …" if len(batch) > 5 else "")
        gain = sum(each.expected_gain for each in batch)
        words = f"{verb}{len(batch)} drafters ({names}) from {source} to {destination}: {batch[0].words}"
        found.append((Action.MOVE.value, f"{words}; expected gain {gain:.3g}"))
    return found
