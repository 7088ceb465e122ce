"""`goodspeed up`: a cluster's file becomes a fleet on this machine, and stays until it is stopped."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.live import Live

from goodspeed_operator.cli.session import console, default_state, read, run, serving
from goodspeed_operator.cli.table import line, read_verifiers, table
from goodspeed_operator.cli.traffic import served_model
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
    show_table: Annotated[
        bool, typer.Option("--table/--no-table", help="Live table; plain lines otherwise, or off a terminal.")
    ] = True,
) -> None:
    """Run a GoodSpeedCluster on this machine until Ctrl-C, from the file that Kubernetes would get.

    Every pod becomes a process with a loopback address of its own, its probes and its metrics:

        goodspeed up -f examples/quickstart.yaml
    """
    cluster = read(file)
    state = state_dir or default_state(cluster.name)
    live = show_table and console.is_terminal

    async def work() -> int:
        async with serving(cluster, state=state, cache=cache, timeout=timeout) as fleet:
            await _greet(fleet)
            await (_live(fleet) if live else _lines(fleet))
        return 0

    raise typer.Exit(run(work))


async def _greet(fleet: Fleet) -> None:
    for member in fleet.members:
        path = "/v1" if member.role == "drafter" else "/metrics"
        console.print(f"  {member.name:<28} {member.url}{path}  {member.model}", markup=False, soft_wrap=True)
    drafters = fleet.of_role("drafter")
    if not drafters:
        return
    async with httpx.AsyncClient(trust_env=False) as http:
        model = await served_model(http, drafters[0].url)
    body = {
        "model": model,
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
    }
    console.print("Try it:", style="bold")
    console.print(
        f"  curl {drafters[0].url}/v1/chat/completions -H 'Content-Type: application/json' "
        f"-d '{json.dumps(body)}'",
        markup=False,
        soft_wrap=True,
    )


async def _live(fleet: Fleet) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        with Live(table(fleet, []), console=console, auto_refresh=False) as live:
            while True:
                live.update(table(fleet, await read_verifiers(fleet, http)), refresh=True)
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
