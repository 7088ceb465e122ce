"""Leader safety: only the holder of a Lease reconciles.

kopf's peering lets operators see each other, which is no election: two may act
at once. The Kubernetes client's own election over a Lease is; what is added
here, over a lock of our own: every call has a deadline, a broken connection
counts as a failed renewal, the work ends before anybody else may begin however
the calls hang, losing the lease is told as an exception, and an orderly end
gives the lease back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord

from goodspeed_operator.cluster.client import APIError, KubernetesAPI
from goodspeed_operator.cluster.kinds import Manifest

logger = logging.getLogger(__name__)


class LeaseLostError(RuntimeError):
    """Another replica may be leading now; this process must stop acting at once."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds; a replica that waits takes over within ``duration`` + ``retry`` of the leader's silence.

    Attributes:
        duration: a lease that was not renewed for so long is free.
        renew_deadline: the leader gives up after failing for so long.
        retry: between two tries.
        request: one call may take.
        margin: before ``duration`` is over the leader has stopped.
    """

    duration: int = 10
    renew_deadline: float = 6.0
    retry: float = 2.0
    request: float = 3.0
    margin: float = 1.0


class _Lock:
    """What `LeaderElection` asks of a lock, over a Lease; one that cannot be reached is one failed try.

    Attributes:
        renewed: monotonic seconds at which the last call that renewed the lease began.
    """

    def __init__(self, api: KubernetesAPI, name: str, namespace: str, identity: str, seconds: float) -> None:
        self.name, self.namespace, self.identity = name, namespace, identity
        self.renewed = -math.inf
        self._api = api
        self._seconds = seconds
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._lease: Manifest = {}

    async def get(self, name: str, namespace: str) -> tuple[bool, Any]:
        """Whether the lease is there, and its record; else the failure, as the election reads it."""
        try:
            self._lease = await self._call("GET", f"{self._path}/{name}")
        except APIError as error:
            failure = ApiException(status=error.status, reason=str(error))
            failure.body = json.dumps({"code": error.status})
            return False, failure
        spec = self._lease.get("spec") or {}
        fields = ("holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime")
        return True, LeaderElectionRecord(*(spec.get(field) for field in fields))

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        """Makes the lease, held by this replica."""
        self._lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": namespace},
        }
        return await self._write("POST", self._path, election_record)

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        """Takes or renews the lease, unless it has changed since `get`."""
        return await self._write("PUT", f"{self._path}/{name}", updated_record)

    async def release(self) -> None:
        """Lets the next replica begin at once, if the lease is still ours."""
        found, record = await self.get(self.name, self.namespace)
        if found and record.holder_identity == self.identity:
            spec = {key: value for key, value in self._lease["spec"].items() if key != "holderIdentity"}
            with contextlib.suppress(APIError):
                await self._call("PUT", f"{self._path}/{self.name}", {**self._lease, "spec": spec})

    async def _write(self, method: str, path: str, record: Any) -> bool:
        began, now = time.monotonic(), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = self._lease.get("spec") or {}
        same = before.get("holderIdentity") == self.identity
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(record.lease_duration),
            "acquireTime": before.get("acquireTime", now) if same else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (not same),
        }
        try:
            self._lease = await self._call(method, path, {**self._lease, "spec": spec})
        except APIError as error:
            logger.debug("%s", error)
            return False
        self.renewed = began
        return True

    async def _call(self, method: str, path: str, body: Manifest | None = None) -> Manifest:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._api.request(method, path, body=body)
        except TimeoutError as error:
            raise APIError(f"{method} {path}", 0, "Timeout", f"no answer in {self._seconds:g} s") from error


async def lead(
    api: KubernetesAPI,
    *,
    name: str,
    namespace: str,
    identity: str,
    work: Callable[[], Coroutine[Any, Any, None]],
    times: LeaseTimes | None = None,
) -> None:
    """Waits for the Lease, then runs ``work`` for as long as it is held.

    Returns when ``work`` returns.

    Raises:
        LeaseLostError: the lease could not be renewed in time; ``work`` was cancelled.
    """
    times = times or LeaseTimes()
    lost = LeaseLostError(f"lease {namespace}/{name} was not renewed in time")
    lock = _Lock(api, name, namespace, identity, times.request)
    begun = asyncio.Event()

    async def hold() -> None:
        begun.set()
        await asyncio.Event().wait()

    election = LeaderElection(
        Config(
            lock,
            lease_duration=times.duration,
            renew_deadline=times.renew_deadline,
            retry_period=times.retry,
            onstarted_leading=hold,
            onstopped_leading=None,
        )
    )
    campaign = asyncio.create_task(election.run(), name="lease")
    tasks: set[asyncio.Task[Any]] = {campaign}
    try:
        await _first(campaign, begun.wait())
        if campaign.done():
            campaign.result()
            raise lost
        logger.info("holding lease %s/%s as %s", namespace, name, identity)
        working = asyncio.create_task(work(), name="work")
        watching = asyncio.create_task(_until_stale(lock, times.duration - times.margin))
        tasks |= {working, watching}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            logger.error("lost lease %s/%s", namespace, name)
            raise lost
        working.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await lock.release()


async def _first(task: asyncio.Task[Any], other: Coroutine[Any, Any, Any]) -> None:
    """Waits for one of the two; the task goes on if it is not the one."""
    waiting = asyncio.create_task(other)
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _until_stale(lock: _Lock, seconds: float) -> None:
    """Returns when the lease was last renewed so long ago that it may soon be another's."""
    while (left := lock.renewed + seconds - time.monotonic()) > 0:  # noqa: ASYNC110 - for what does not happen
        await asyncio.sleep(left)
