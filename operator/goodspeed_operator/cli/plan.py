"""`goodspeed plan`: what rebalancing would do now, and why; nothing is changed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.table import Table

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.scalars import seconds
from goodspeed_operator.cli.membership import read as read_members
from goodspeed_operator.cli.rebalancing import with_prometheus
from goodspeed_operator.cli.session import console, fail, read, run
from goodspeed_operator.cli.whereabouts import kubernetes, local_state
from goodspeed_operator.cluster.rebalancer import Interval, Rebalancer
from goodspeed_operator.rebalance.observe import Members
from goodspeed_runtime.rebalancing.decision import Action
from goodspeed_runtime.rebalancing.observation import Observation


def plan(
    file: Annotated[
        Path, typer.Option("--filename", "-f", metavar="FILE", help="YAML of a GoodSpeedCluster that runs.")
    ],
    over: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=1, help="Observe for so long [default: the interval]."),
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(
            envvar="GOODSPEED_PROMETHEUS",
            metavar="URL",
            help="Read metrics there [default: the pods themselves].",
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(envvar="GOODSPEED_STATE_DIR", help="State folder of a fleet on this machine."),
    ] = None,
) -> None:
    """Show what rebalancing would do now to a running cluster, and why.

    The limits are the file's: try others before you apply them. The cluster is looked for on this
    machine, then in the kubeconfig's Kubernetes, whose pods must be reachable from here unless
    --prometheus is given:

        goodspeed plan -f examples/quickstart.yaml --over 10
    """
    cluster = with_prometheus(read(file), prometheus)
    interval = over or seconds(cluster.spec.rebalance.interval)
    rebalance = cluster.spec.rebalance.model_copy(
        update={"mode": "Recommend", "interval": f"{interval:g}s", "cooldown": "0s"}
    )
    cluster = cluster.model_copy(update={"spec": cluster.spec.model_copy(update={"rebalance": rebalance})})

    async def work() -> int:
        members = await _members(cluster, state_dir)
        async with httpx.AsyncClient(trust_env=False) as http:
            loop = Rebalancer(http)
            found = await loop.step(cluster, members)
            if prometheus is None and not members.unsettled:
                with console.status(f"observing for {interval:g} s"):
                    await asyncio.sleep(interval)
                found = await loop.step(cluster, members)
        return _show(found)

    raise typer.Exit(run(work))


async def _members(cluster: GoodSpeedCluster, state_dir: Path | None) -> Members:
    state = local_state(cluster.name, state_dir)
    if state is not None:
        try:
            return read_members(state)
        except (OSError, ValueError, KeyError) as error:
            raise fail(f"{state}: no fleet has left word of itself there ({error})") from error
    async with kubernetes(cluster.name) as api:
        from goodspeed_operator.cluster.kinds import CHILDREN, CLUSTER, POD
        from goodspeed_operator.handlers.observed import Key, Observed
        from goodspeed_operator.handlers.rebalancing import members_of
        from goodspeed_operator.resources.naming import CLUSTER_LABEL

        observed, key = Observed(), Key(cluster.namespace, cluster.name)
        body = await api.get(CLUSTER, cluster.namespace, cluster.name)
        if body is None:
            raise fail(f"no fleet {cluster.name!r} runs on this machine, and none is in {cluster.namespace}")
        observed.see_cluster(body)
        for kind in (*CHILDREN, POD):
            for child in await api.list(kind, cluster.namespace, selector=f"{CLUSTER_LABEL}={cluster.name}"):
                observed.see_child(kind, child, deleted=False)
        there = cluster.model_copy(
            update={"status": type(cluster.status).model_validate(body.get("status", {}))}
        )
        return members_of(there, observed.children(key), time.time())


def _show(found: Interval) -> int:
    if found.observation is not None:
        console.print(_cells(found.observation))
    table = Table("action", "subject", "from", "to", "gain", "why", pad_edge=False, title_justify="left")
    for each in found.report.latest:
        gain = "" if each.action is Action.HOLD else f"{each.expected_gain:+.3f}"
        why = f"{each.reason.value}: {each.words}" if each.words else each.reason.value
        table.add_row(each.action.value, each.subject, each.source, each.destination, gain, why)
    console.print(table)
    return 0 if found.observation is not None else 1


def _cells(observation: Observation) -> Table:
    table = Table("cell", pad_edge=False)
    for heading in ("drafters", "busy", "budget", "shadow price", "tok/s"):
        table.add_column(heading, justify="right")
    cells, drafters = observation.cells, observation.drafters
    for index, name in enumerate(cells.names):
        here = drafters.cells == index
        table.add_row(
            name,
            str(int(here.sum())),
            str(int((here & (drafters.sequences > 0)).sum())),
            str(int(cells.budgets[index])),
            f"{cells.prices[index]:.3g}",
            f"{drafters.rates[here].sum():.1f}",
        )
    return table
