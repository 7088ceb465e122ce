"""`goodspeed up`: a cluster's file becomes a fleet on this machine, and stays until it is stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from goodspeed_operator.cli.credentials import credentials
from goodspeed_operator.cli.rebalancing import rebalance, with_prometheus, words
from goodspeed_operator.cli.session import console, default_state, read_with_secrets, run, serving
from goodspeed_operator.cli.table import line, read_verifiers, table
from goodspeed_operator.cli.traffic import served_model
from goodspeed_operator.cluster.rebalancer import Interval
from goodspeed_operator.local.fleet import Fleet

_REFRESH_SECONDS = 1.0
_LINE_SECONDS = 10.0

File = Annotated[Path, typer.Option("--filename", "-f", metavar="FILE", help="YAML of a GoodSpeedCluster.")]
Timeout = Annotated[
    float, typer.Option(envvar="GOODSPEED_UP_TIMEOUT", min=1, help="Seconds until every pod must be ready.")
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        envvar="GOODSPEED_STATE_DIR",
        help="Folder of logs and volumes.",
        show_default="~/.local/state/goodspeed/…",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(envvar="GOODSPEED_CACHE", help="Model cache folder.", show_default="~/.cache/goodspeed"),
]


def up(
    file: File,
    timeout: Timeout = 300,
    state_dir: StateDir = None,
    cache: Cache = None,
    prometheus: Annotated[
        str | None,
        typer.Option(
            envvar="GOODSPEED_PROMETHEUS",
            metavar="URL",
            help="Where rebalancing reads metrics [default: the pods themselves].",
        ),
    ] = None,
    show_table: Annotated[
        bool, typer.Option("--table/--no-table", help="Live table; plain lines otherwise, or off a terminal.")
    ] = True,
) -> None:
    """Run a GoodSpeedCluster on this machine until Ctrl-C, from the file that Kubernetes would get.

    Every pod becomes a process with a loopback address of its own, its probes and its metrics:

        goodspeed up -f examples/quickstart.yaml
    """
    cluster, secrets = read_with_secrets(file)
    cluster = with_prometheus(cluster, prometheus)
    headers = credentials(cluster, secrets)
    state = state_dir or default_state(cluster.name)
    live = show_table and console.is_terminal

    async def work() -> int:
        async with serving(cluster, secrets, state=state, cache=cache, timeout=timeout) as fleet:
            await _greet(fleet, headers)
            shown = _Decisions(live=live)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(rebalance(cluster, fleet, state, shown.tell))
                tasks.create_task(_live(fleet, shown) if live else _lines(fleet))
        return 0

    raise typer.Exit(run(work))


async def _greet(fleet: Fleet, headers: Mapping[str, str]) -> None:
    for member in fleet.members:
        path = "/v1" if member.role == "drafter" else "/metrics"
        console.print(f"  {member.name:<28} {member.url}{path}  {member.model}", markup=False, soft_wrap=True)
    drafters = fleet.of_role("drafter")
    if not drafters:
        return
    async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
        model = await served_model(http, drafters[0].url)
    body = {
        "model": model,
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
    }
    key = ' -H "Authorization: Bearer $KEY"' if headers else ""
    console.print("Try it, with a tenant's key in KEY:" if key else "Try it:", style="bold")
    console.print(
        f"  curl {drafters[0].url}/v1/chat/completions -H 'Content-Type: application/json'{key} "
        f"-d '{json.dumps(body)}'",
        markup=False,
        soft_wrap=True,
    )


class _Decisions:
    """The last decisions: lines of their own, or under the live table."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self.lines: list[str] = []

    def tell(self, interval: Interval) -> None:
        report = interval.report
        found = [words(each) for each in report.changes] or [f"Hold ({report.words or report.holding})"]
        if not self._live and found != self.lines:
            for text in found:
                console.print(text, markup=False, soft_wrap=True)
        self.lines = found


async def _live(fleet: Fleet, shown: _Decisions) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        with Live(table(fleet, []), console=console, auto_refresh=False) as live:
            while True:
                figures = table(fleet, await read_verifiers(fleet, http))
                live.update(Group(figures, *map(Text, shown.lines[:5])), refresh=True)
                await asyncio.sleep(_REFRESH_SECONDS)


async def _lines(fleet: Fleet) -> None:
    shown = ""
    async with httpx.AsyncClient(trust_env=False) as http:
        while True:
            text = line(fleet, await read_verifiers(fleet, http))
            if text != shown:
                console.print(text, markup=False, soft_wrap=True)
                shown = text
            await asyncio.sleep(_LINE_SECONDS)
