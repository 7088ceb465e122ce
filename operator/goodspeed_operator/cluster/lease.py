"""Leader safety: only the holder of a Lease reconciles.

kopf's peering lets operators see each other, which is no election: two may act
at once. The Kubernetes client's own election over a Lease is; what is added
here is that a broken connection counts as a failed renewal, never as a crash
of the election, and that losing the lease is told as an exception.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

logger = logging.getLogger(__name__)

_UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)


class LeaseLostError(RuntimeError):
    """Another replica may be leading now; this process must stop acting at once."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds; a replica that waits takes over within ``duration`` + ``retry`` of the leader's silence."""

    duration: float = 10.0
    renew_deadline: float = 7.0
    retry: float = 2.0


class _PatientLock(LeaseLock):  # type: ignore[misc]
    """A LeaseLock to which an unreachable API server is one failed try."""

    async def get(self, name: str, namespace: str) -> Any:
        try:
            return await super().get(name, namespace)
        except _UNREACHABLE as error:
            return False, ApiException(status=0, reason=f"unreachable: {error}")

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        try:
            return bool(await super().create(name, namespace, election_record))
        except _UNREACHABLE:
            return False

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        try:
            return bool(await super().update(name, namespace, updated_record))
        except _UNREACHABLE:
            return False


async def lead(
    api_client: ApiClient,
    *,
    name: str,
    namespace: str,
    identity: str,
    work: Callable[[], Awaitable[None]],
    times: LeaseTimes | None = None,
) -> None:
    """Waits for the Lease, then runs ``work`` for as long as it is held.

    Returns when ``work`` returns.

    Raises:
        LeaseLostError: the lease could not be renewed in time; ``work`` was cancelled.
    """
    times = times or LeaseTimes()
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def started() -> None:
        logger.info("holding lease %s/%s as %s", namespace, name, identity)
        try:
            await work()
        except asyncio.CancelledError:
            if not outcome.done():
                outcome.set_exception(LeaseLostError(f"lease {namespace}/{name} was not renewed in time"))
            raise
        except Exception as error:  # noqa: BLE001 - carried to the caller, whatever it is
            if not outcome.done():
                outcome.set_exception(error)
        else:
            if not outcome.done():
                outcome.set_result(None)

    async def stopped() -> None:
        logger.error("lost lease %s/%s", namespace, name)

    election = LeaderElection(
        Config(
            _PatientLock(name, namespace, identity, api_client),
            lease_duration=times.duration,
            renew_deadline=times.renew_deadline,
            retry_period=times.retry,
            onstarted_leading=started,
            onstopped_leading=stopped,
        )
    )
    campaign = asyncio.create_task(election.run(), name="lease")
    try:
        await asyncio.wait({campaign, outcome}, return_when=asyncio.FIRST_COMPLETED)
        if not outcome.done():
            await asyncio.sleep(0)
            await campaign
            raise LeaseLostError(f"lease {namespace}/{name} was not renewed in time")
        outcome.result()
    finally:
        campaign.cancel()
