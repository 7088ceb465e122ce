"""The slow loop beside a fleet on this machine, as the operator runs it beside one in a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import httpx

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.control import Prometheus
from goodspeed_operator.api.scalars import seconds
from goodspeed_operator.cli.membership import members_of, write
from goodspeed_operator.cluster.rebalancer import Interval, Rebalancer
from goodspeed_operator.local.fleet import Fleet
from goodspeed_runtime.rebalancing.decision import Action, Decision

logger = logging.getLogger(__name__)


def with_prometheus(cluster: GoodSpeedCluster, url: str | None) -> GoodSpeedCluster:
    """The cluster with another Prometheus, or with none: a Service's name means nothing on this machine."""
    server = None if url is None else Prometheus(url=url)
    rebalance = cluster.spec.rebalance.model_copy(update={"prometheus": server})
    return cluster.model_copy(update={"spec": cluster.spec.model_copy(update={"rebalance": rebalance})})


async def rebalance(
    cluster: GoodSpeedCluster, fleet: Fleet, state: Path, tell: Callable[[Interval], None]
) -> None:
    """Decides every interval until cancelled; tells what came of it."""
    async with httpx.AsyncClient(trust_env=False) as http:
        loop = Rebalancer(http)
        while True:
            members = members_of(fleet)
            write(state, cluster, members, loop.report)
            if cluster.spec.rebalance.mode != "Off" and len(members.cells) > 0:
                tell(await loop.step(cluster, members))
                write(state, cluster, members, loop.report)
            await asyncio.sleep(seconds(cluster.spec.rebalance.interval))


def words(decision: Decision) -> str:
    """One decision on one line."""
    text = f"{decision.action.value} {decision.subject}".rstrip()
    if decision.action is not Action.HOLD:
        text += f": {decision.source} to {decision.destination}, expected gain {decision.expected_gain:.3g}"
    return f"{text} ({decision.reason.value}{': ' + decision.words if decision.words else ''})"
