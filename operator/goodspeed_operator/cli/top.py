"""`goodspeed top`: a cluster's cells, drafters and decisions, live."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from goodspeed_operator.api.status import DecisionStatus, Status
from goodspeed_operator.cli.membership import FILE
from goodspeed_operator.cli.membership import read as read_members
from goodspeed_operator.cli.session import console, fail, run
from goodspeed_operator.cli.whereabouts import kubernetes, local_state
from goodspeed_operator.cluster.scrape import scrape
from goodspeed_operator.local.figures import DrafterFigures, drafters
from goodspeed_operator.resources.figures import CellFigures, figures_of

Picture = Callable[[], Awaitable[RenderableType]]
SHOWN_DECISIONS = 5


def top(
    name: Annotated[str, typer.Argument(help="Name of the GoodSpeedCluster.")],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", envvar="GOODSPEED_NAMESPACE", help="Its namespace.")
    ] = "default",
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, help="Between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one look and leave.")] = False,
    state_dir: Annotated[
        Path | None,
        typer.Option(envvar="GOODSPEED_STATE_DIR", help="State folder of a fleet on this machine."),
    ] = None,
) -> None:
    """Watch a cluster: on this machine by its metrics, on Kubernetes by its status.

    goodspeed top quickstart
    """
    state = local_state(name, state_dir)

    async def work() -> int:
        if state is not None:
            async with httpx.AsyncClient(trust_env=False) as http:
                return await _watch(lambda: _local(http, state), every, once=once)
        async with kubernetes(name) as api:
            from goodspeed_operator.cluster.kinds import CLUSTER

            async def look() -> RenderableType:
                body = await api.get(CLUSTER, namespace, name)
                if body is None:
                    raise fail(f"no fleet {name!r} runs on this machine, and none is in {namespace}")
                return remote(Status.model_validate(body.get("status") or {}))

            return await _watch(look, every, once=once)

    raise typer.Exit(run(work))


async def _watch(look: Picture, every: float, *, once: bool) -> int:
    if once or not console.is_terminal:
        while True:
            console.print(await look())
            if once:
                return 0
            await asyncio.sleep(every)
    with Live(await look(), console=console, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(every)
            live.update(await look(), refresh=True)


async def _local(http: httpx.AsyncClient, state: Path) -> RenderableType:
    try:
        members = read_members(state)
        plain = json.loads((state / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise fail(f"{state}: no fleet has left word of itself there ({error})") from error
    found = await asyncio.gather(*(scrape(http, f"{cell.url}/metrics") for cell in members.cells))
    readings = {cell.name: reading for cell, reading in zip(members.cells, found, strict=True) if reading}
    cells, each = figures_of(readings).cells, drafters(readings.values())
    decisions = [DecisionStatus.model_validate(entry) for entry in plain.get("decisions", ())]
    rows = [(place.name, place.pool, each.get(place.name)) for place in members.drafters]
    names = [cell.name for cell in members.cells]
    return Group(_cells([(name, cells.get(name)) for name in names]), _drafters(rows), *_decisions(decisions))


def _cells(rows: list[tuple[str, CellFigures | None]]) -> Table:
    table = _table("cell", "drafters", "budget", "shadow price", "tok/s", "round", "Jain index")
    for name, figures in rows:
        if figures is None:
            table.add_row(name, *"–" * 6)
            continue
        table.add_row(
            name,
            str(figures.drafters),
            _figure(figures.budget_tokens, "d"),
            _figure(figures.shadow_price, ".3g"),
            f"{figures.goodput:.1f}",
            "–" if figures.round_seconds is None else f"{1000 * figures.round_seconds:.0f} ms",
            _figure(figures.jain_index, ".2f"),
        )
    return table


def _drafters(rows: list[tuple[str, str, DrafterFigures | None]]) -> Table:
    table = _table("drafter", "pool", "acceptance", "grant", "tok/round", "tok/s", "active", "tokens")
    for name, pool, figures in rows:
        if figures is None:
            table.add_row(name, pool, *"–" * 6)
            continue
        table.add_row(
            name,
            pool,
            f"{figures.acceptance:.2f}",
            f"{figures.grant:.0f}",
            f"{figures.goodput_per_round:.2f}",
            f"{figures.goodput_per_second:.1f}",
            f"{figures.sequences:.0f}" + (f"+{figures.queue:.0f}" if figures.queue else ""),
            f"{figures.counts.emitted_tokens:.0f}",
        )
    return table


def remote(status: Status) -> RenderableType:
    """A cluster's status as tables."""
    cells = _table("cell", "ready", "drafters", "budget", "shadow price", "tok/s", "round")
    for cell in status.cells:
        cells.add_row(
            cell.name,
            "yes" if cell.ready else "no",
            str(cell.drafters),
            _figure(cell.budget_tokens, "d"),
            _figure(cell.shadow_price, ".3g"),
            _figure(cell.goodput_tokens_per_second, ".1f"),
            "–" if cell.round_seconds is None else f"{1000 * cell.round_seconds:.0f} ms",
        )
    pools = _table("pool", "ready", "acceptance", "grant", "tok/s")
    for pool in status.pools:
        pools.add_row(
            pool.name,
            f"{pool.ready_replicas}/{pool.replicas}",
            _figure(pool.acceptance_ratio, ".2f"),
            _figure(pool.grant_tokens, ".1f"),
            _figure(pool.goodput_tokens_per_second, ".1f"),
        )
    troubles = [
        Text(f"{found.type.value} {found.status}: {found.reason.value} {found.message}")
        for found in status.conditions
        if (found.status == "True") == (found.type.value == "Degraded") and found.type.value != "Rebalancing"
    ]
    return Group(cells, pools, *troubles, *_decisions(status.decisions))


def _decisions(decisions: list[DecisionStatus]) -> list[Text]:
    return [Text(words(each)) for each in decisions[:SHOWN_DECISIONS]]


def words(decision: DecisionStatus) -> str:
    """One decision on one line."""
    text = f"{decision.time[11:19]} {decision.action} {decision.subject}".rstrip()
    if decision.source or decision.destination:
        text += f": {decision.source} to {decision.destination}"
    if decision.expected_gain is not None:
        real = "" if decision.actual_gain is None else f", real {decision.actual_gain:+.3g}"
        text += f", gain {decision.expected_gain:+.3g}{real}"
    applied = decision.applied or decision.action == "Hold"
    return f"{text} ({decision.reason}{'' if applied else ', not applied'})"


def _table(first: str, *others: str) -> Table:
    table = Table(first, pad_edge=False)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
