"""`goodspeed simulate`: compares allocators on a scenario, on this machine, in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from goodspeed_runtime.simulate.comparison import compare
from goodspeed_runtime.simulate.loading import ScenarioError, load, preset, preset_names
from goodspeed_runtime.simulate.results import Row, to_json
from goodspeed_runtime.simulate.scenario import Scenario

app = typer.Typer(add_completion=False)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


@app.command()
def simulate(
    scenario: Annotated[
        str | None,
        typer.Option("--scenario", "-s", metavar="NAME", help=f"One of: {', '.join(preset_names())}."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="A scenario of your own, as YAML.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there, as a list.")
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            "--plots", metavar="FOLDER", help="Draw PNG and SVG there; needs goodspeed\\[simulate]."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Other luck; the scenario's seed where it is not given.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=10, help="Rounds of every allocator, in place of the scenario's.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the scenario as YAML and leave.")] = False,
) -> None:
    """Compare allocators on the same clients, with the same luck.

    Every allocator of the scenario plays the same clients, acceptances and arrivals. The table says
    what came of it: utility, fairness (Jain index, the worst client), goodput per round and per
    second, the gain over the baseline and the gap to the optimum.

    \b
    goodspeed simulate                                 the paper's six cells
    goodspeed simulate -s stragglers --plots figures   with pictures
    goodspeed simulate -s drift --show > mine.yaml     a start for one of your own
    goodspeed simulate -f mine.yaml --json mine.json --rounds 500
    """  # noqa: D301 - typer reads the backspace
    if scenario is not None and file is not None:
        raise _fail("--scenario and --file are both given; give one of them")
    try:
        chosen = load(file) if file is not None else preset(scenario or "paper")
    except ScenarioError as error:
        raise _fail(str(error)) from error
    if show:
        typer.echo(_text(chosen, file, scenario), nl=False)
        return
    if plots is not None:
        _needs_matplotlib()
    for what, path in (("--json", json and json.parent), ("--plots", plots)):
        try:
            if path is not None:
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _fail(f"{what}: {path}: {(error.strerror or str(error)).lower()}") from error
    console.print(f"[bold]{chosen.name}[/bold]  {chosen.description.strip()}")
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=errors, transient=True) as progress:
        work = progress.add_task("", total=None)

        def report(what: str, done: int, total: int) -> None:
            progress.update(work, description=what, completed=done, total=total)

        try:
            comparison = compare(chosen, rounds=rounds, seed=seed, report=report)
        except ScenarioError as error:
            raise _fail(str(error)) from error
    console_of_width = console if console.is_terminal else Console(width=170, highlight=False)
    console_of_width.print(_table(comparison.rows))
    if json is not None:
        json.write_text(to_json(comparison.rows), encoding="utf-8")
        console.print(f"{json} written", markup=False)
    if plots is not None:
        from goodspeed_runtime.simulate.plots import draw

        for path in draw(comparison, plots):
            console.print(f"{path} written", markup=False)


def _fail(message: str) -> typer.Exit:
    errors.print(f"error: {message}", style="red", markup=False, soft_wrap=True)
    return typer.Exit(2)


def _needs_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise _fail("--plots needs matplotlib: pip install 'goodspeed[simulate]'") from error


def _text(scenario: Scenario, file: Path | None, name: str | None) -> str:
    from goodspeed_runtime.simulate.loading import preset_text

    return file.read_text(encoding="utf-8") if file is not None else preset_text(name or "paper")


def _share(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _table(rows: Sequence[Row]) -> Table:
    table = Table("scenario", "allocator", pad_edge=False)
    unit = "round" if rows[0].judged == "per-round" else "s"
    published = any(row.published_gain is not None for row in rows)
    for heading in (
        "utility", "gain", *(["paper's"] if published else []), "gap", "Jain", f"min/{unit}", "p95 round",
        "tok/round", "tok/s", "waiting", "regret", "α̂ error",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    last = rows[0].scenario
    for row in rows:
        if row.scenario != last:
            table.add_section()
        table.add_row(
            row.scenario,
            row.allocator,
            f"{row.utility:.3f}",
            f"{row.gain:+.1%}",
            *([_share(row.published_gain, "+.1%")] if published else []),
            f"{row.optimum_gap:.1%}",
            f"{row.jain_index:.3f}",
            f"{row.min_goodput:.2f}",
            f"{row.p95_round_seconds * 1e3:.0f} ms",
            f"{row.goodput_per_round:.2f}",
            f"{row.goodput_per_second:.1f}",
            f"{row.waiting_share:.0%}",
            _share(row.regret, ".1%"),
            _share(row.tracking_error, ".3f"),
        )
        last = row.scenario
    return table
