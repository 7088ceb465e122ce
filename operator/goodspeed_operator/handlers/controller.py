"""Keeps all clusters reconciled: workers on the queue, full listings now and then, scrapes, a heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import httpx

from goodspeed_operator.cluster.client import APIError, KubernetesAPI
from goodspeed_operator.cluster.kinds import CHILDREN, CLUSTER, POD, Kind, Manifest
from goodspeed_operator.cluster.scrape import scrape
from goodspeed_operator.handlers.fleet import VERIFIER, pods_of
from goodspeed_operator.handlers.health import Health
from goodspeed_operator.handlers.metrics import OperatorMetrics
from goodspeed_operator.handlers.observed import Key, Observed
from goodspeed_operator.handlers.queue import WorkQueue
from goodspeed_operator.handlers.rebalancing import Rebalancing
from goodspeed_operator.handlers.reconcile import Reconciler
from goodspeed_operator.resources.figures import Reading
from goodspeed_operator.resources.naming import VERIFIER_HTTP_PORT

logger = logging.getLogger(__name__)

SELECTOR = "app.kubernetes.io/managed-by=goodspeed-operator"
RESYNC_SECONDS = 600.0
SETTLE_SECONDS = 3.0
"""Watches end together and begin anew one after the other; then one listing does for all."""
SCRAPE_SECONDS = 30.0
HEARTBEAT_SECONDS = 20.0
SCRAPES_AT_ONCE = 16
_HEARTBEAT = Key("", "")


class StartOverError(Exception):
    """What the API server knows has changed: watches and handlers must be made anew."""


async def has_pod_monitors(api: KubernetesAPI) -> bool:
    """Whether the API server knows PodMonitors."""
    return any([await api.serves(kind) for kind in CHILDREN if kind.optional])


class Controller:
    """The operator while it leads."""

    def __init__(
        self,
        api: KubernetesAPI,
        *,
        namespaces: tuple[str, ...],
        image: str,
        workers: int,
        pod_monitors: bool,
        metrics: OperatorMetrics,
        health: Health,
    ) -> None:
        self._api = api
        self._namespaces = namespaces or ("",)
        self._image = image
        self._workers = workers
        self._pod_monitors = pod_monitors
        self._metrics = metrics
        self._health = health
        self._observed = Observed()
        self._readings: dict[Key, dict[str, Reading | None]] = {}
        self._queue: WorkQueue[Key] = WorkQueue()
        self._begun = asyncio.Event()
        self._requests_counted = 0

    def see_cluster(self, body: Manifest, *, deleted: bool) -> None:
        """A watch shows a cluster."""
        key = Key(body["metadata"]["namespace"], body["metadata"]["name"])
        if deleted:
            self._observed.forget_cluster(key, body)
            self._readings.pop(key, None)
        else:
            self._observed.see_cluster(body)
        self._queue.add(key)

    def see_beginning(self) -> None:
        """A watch has begun, and shows what there is; what went away before it did is for a full listing."""
        self._begun.set()

    def see_child(self, kind: Kind, body: Manifest, *, deleted: bool) -> None:
        """A watch shows a child."""
        key = self._observed.see_child(kind, body, deleted=deleted)
        if key is not None:
            self._queue.add(key)

    async def run(self) -> None:
        """Reconciles until cancelled.

        Raises:
            APIError: the first full listing failed; without it nothing is known well enough to act.
            StartOverError: an optional API has come or gone.
        """
        rebalancing = Rebalancing(self._api, self._observed, self._metrics, self._queue.add)
        reconciler = Reconciler(
            self._api,
            self._observed,
            self._readings,
            image=self._image,
            pod_monitors=self._pod_monitors,
            rebalancing=rebalancing,
        )
        await self._resync()
        self._health.started_leading()
        # In this order: whoever scrapes must be gone before the client closes.
        async with httpx.AsyncClient(trust_env=False) as http, asyncio.TaskGroup() as tasks:
            for number in range(self._workers):
                tasks.create_task(self._work(reconciler), name=f"worker {number}")
            tasks.create_task(self._resyncs(), name="resync")
            tasks.create_task(self._scrapes(http), name="scrape")
            tasks.create_task(rebalancing.run(http), name="rebalance")
            tasks.create_task(self._heartbeat(), name="heartbeat")

    async def _work(self, reconciler: Reconciler) -> None:
        while True:
            key = await self._queue.get()
            try:
                if key != _HEARTBEAT:
                    await self._one(reconciler, key)
                self._health.reconciled()
                self._metrics.last_reconcile.set(time.time())
            finally:
                self._queue.done(key)
                self._count()

    async def _one(self, reconciler: Reconciler, key: Key) -> None:
        started = time.perf_counter()
        try:
            again = await reconciler.reconcile(key)
        except APIError as error:
            delay = self._queue.retry(key)
            logger.warning("%s: %s; again in %.1f s", key, error, delay)
            self._failed(error.reason or str(error.status))
        except Exception as error:
            delay = self._queue.retry(key)
            logger.exception("%s: reconcile failed; again in %.1f s", key, delay)
            self._failed(type(error).__name__)
            with contextlib.suppress(APIError):
                await reconciler.failed(key, error)
        else:
            self._queue.succeeded(key)
            self._metrics.reconcile_total.labels("done").inc()
            if again is not None:
                self._queue.add(key, after=again)
        self._metrics.reconcile_seconds.observe(time.perf_counter() - started)

    def _failed(self, reason: str) -> None:
        self._metrics.reconcile_total.labels("failed").inc()
        self._metrics.reconcile_errors_total.labels(reason).inc()

    def _count(self) -> None:
        self._metrics.api_requests_total.inc(self._api.requests - self._requests_counted)
        self._requests_counted = self._api.requests
        self._metrics.queue_length.set(len(self._queue))
        self._metrics.clusters.set(sum(1 for _ in self._observed.clusters()))

    async def _heartbeat(self) -> None:
        """Goes through the queue and a worker, so that its age is the age of what reconciles."""
        while True:
            self._queue.add(_HEARTBEAT)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _resyncs(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESYNC_SECONDS):
                    await self._begun.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._begun.clear()
            try:
                if await has_pod_monitors(self._api) != self._pod_monitors:
                    raise StartOverError("the API of PodMonitors has come or gone")
                await self._resync()
            except APIError as error:
                logger.warning("full listing failed: %s", error)

    async def _resync(self) -> None:
        """Lists everything: what watches missed while they were broken is seen here."""
        for namespace in self._namespaces:
            clusters = await self._api.list(CLUSTER, namespace)
            there = {Key(found["metadata"]["namespace"], found["metadata"]["name"]) for found in clusters}
            for key in self._observed.clusters():
                if key not in there and namespace in {"", key.namespace}:
                    self._observed.forget_cluster(key)
            found = set()
            kinds = (*CHILDREN, POD)
            for kind in kinds:
                for body in await self._api.list(kind, namespace, selector=SELECTOR):
                    found.add((kind, body["metadata"]["namespace"], body["metadata"]["name"]))
                    self.see_child(kind, body, deleted=False)
            for key in self._observed.keep_only(found, kinds, namespace):
                self._queue.add(key)
            for body in clusters:
                self.see_cluster(body, deleted=False)

    async def _scrapes(self, http: httpx.AsyncClient) -> None:
        limit = asyncio.Semaphore(SCRAPES_AT_ONCE)
        while True:
            started = time.monotonic()
            await asyncio.gather(*(self._scrape(http, limit, key) for key in self._observed.clusters()))
            await asyncio.sleep(max(1.0, SCRAPE_SECONDS - (time.monotonic() - started)))

    async def _scrape(self, http: httpx.AsyncClient, limit: asyncio.Semaphore, key: Key) -> None:
        readings: dict[str, Reading | None] = {}
        for pod in pods_of(self._observed.children(key), time.time()):
            if pod.component == VERIFIER and pod.ready and pod.address:
                host = f"[{pod.address}]" if ":" in pod.address else pod.address
                async with limit:
                    readings[pod.name] = await scrape(http, f"http://{host}:{VERIFIER_HTTP_PORT}/metrics")
        if readings != self._readings.get(key, {}):
            self._readings[key] = readings
            self._queue.add(key)
