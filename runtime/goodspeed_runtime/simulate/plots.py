"""Pictures of a comparison, in the manner of the paper's figures; the only module that needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from goodspeed_runtime.simulate.comparison import Comparison
from goodspeed_runtime.simulate.results import Played

_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.alpha": 0.3,
    "path.simplify_threshold": 0.4,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "goodspeed",
}
_COLOURS = ("#888888", "#c08a2d", "#1f6fb4", "#2a9d5c", "#b3367a", "#6a4fb3", "#c9422e", "#111111")
_MOST_PANELS = 9


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Draws every picture that the scenario has something for, each as PNG and SVG.

    Returns:
        The files written.
    """
    written = []
    with mpl.rc_context(_STYLE):
        for name, figure in _figures(comparison):
            for kind in ("png", "svg"):
                path = folder / f"{comparison.scenario.name}-{name}.{kind}"
                # Without a date the same run gives the same file.
                figure.savefig(path, dpi=130, metadata={"Date": None} if kind == "svg" else None)
                written.append(path)
    return written


def _figures(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    scenario = comparison.scenario
    if scenario.cells is not None:
        yield "fleet", _fleet(comparison)
        yield "fairness", _fairness(comparison)
        return
    yield "utility", _panels(comparison, _utility, share_y=False)
    yield "estimates", _panels(comparison, _estimates, share_y=False)
    yield "time", _panels(comparison, _time_split, share_y=False)
    yield "fairness", _fairness(comparison)
    if any(scenario.changing(case) for case in scenario.cases):
        yield "tracking", _panels(comparison, _tracking, share_y=True)
    if sum(case.spread is not None for case in scenario.cases) > 1:
        yield "gain", _gain(comparison)


def _by_case(comparison: Comparison) -> list[tuple[str, list[Played]]]:
    return [
        (case.name, [played for played in comparison.played if played.case is case])
        for case in comparison.scenario.cases
    ]


def _colour(comparison: Comparison, played: Played) -> str:
    return _COLOURS[comparison.scenario.allocators.index(played.player) % len(_COLOURS)]


def _panels(
    comparison: Comparison,
    panel: Callable[[Comparison, Sequence[Played], Axes], None],
    *,
    share_y: bool,
) -> Figure:
    """One panel a case, and one legend."""
    cases = _by_case(comparison)[:_MOST_PANELS]
    columns = min(len(cases), 3)
    rows = math.ceil(len(cases) / columns)
    figure = Figure(figsize=(max(4.0 * columns, 6.5), 3.0 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    for place, axis in enumerate(axes.ravel()):
        if place >= len(cases):
            axis.set_axis_off()
            continue
        name, played = cases[place]
        panel(comparison, played, axis)
        axis.set_title(name if len(cases) > 1 else comparison.scenario.name, loc="left", weight="bold")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), 3))
    return figure


def _utility(comparison: Comparison, played: Sequence[Played], axis: Axes) -> None:
    """Utility of the running average over iterations (the paper's convergence figure)."""
    by_second = comparison.scenario.judged == "per-second"
    for each in played:
        moments = each.ledger.moments
        axis.plot(
            [m.seconds if by_second else m.rounds for m in moments],
            [m.utility_per_second if by_second else m.utility for m in moments],
            label=each.player.name,
            color=_colour(comparison, each),
            linewidth=1.4,
        )
    if by_second:
        axis.set_xlim(0, min(each.ledger.moments[-1].seconds for each in played))
    axis.set_xlabel("seconds" if by_second else "rounds")
    axis.set_ylabel(f"utility of goodput {comparison.scenario.judged.replace('-', ' ')}")


def _estimates(comparison: Comparison, played: Sequence[Played], axis: Axes) -> None:
    """What the first gradient's grants were expected to yield, and what they did."""
    each = next((p for p in played if p.player.allocator in {"gradient", "per-second"}), played[0])
    moments = each.ledger.moments
    rounds = [m.rounds for m in moments]
    axis.plot(rounds, [m.actual for m in moments], label="real", color="#888888", linewidth=1)
    axis.plot(rounds, [m.estimated for m in moments], label="estimated", color="#1f6fb4", linewidth=1.2)
    axis.set_xlabel(f"rounds of {each.player.name}")
    axis.set_ylabel("tokens a client and round")


def _time_split(comparison: Comparison, played: Sequence[Played], axis: Axes) -> None:
    """Where a round's time goes."""
    names = [each.player.name for each in played]
    rounds = [max(len(each.ledger.round_seconds), 1) for each in played]
    waiting = np.array([each.ledger.waiting for each in played]) / rounds * 1e3
    verifying = np.array([each.ledger.verifying for each in played]) / rounds * 1e3
    place = np.arange(len(played))
    axis.barh(place, waiting, color="#d9a441", label="waiting for drafts")
    axis.barh(place, verifying, left=waiting, color="#1f6fb4", label="verifying")
    axis.set_yticks(place, names)
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("milliseconds a round")


def _tracking(comparison: Comparison, played: Sequence[Played], axis: Axes) -> None:
    """Regret: the share of equation 5's best value that grants missed, averaged since the start.

    Baselines that look at no estimate miss so much that nothing else would show; they are left out.
    """
    blind = {"fixed", "best-fixed", "random"}
    for each in [each for each in played if each.player.allocator not in blind] or played:
        moments = each.ledger.moments
        regret = np.cumsum([m.regret for m in moments]) / np.arange(1, len(moments) + 1)
        axis.plot(
            [m.rounds for m in moments],
            regret * 100,
            label=each.player.name,
            color=_colour(comparison, each),
            linewidth=1.4,
        )
    axis.set_ylim(bottom=0)
    axis.set_xlabel("rounds")
    axis.set_ylabel("mean regret, %")


def _fairness(comparison: Comparison) -> Figure:
    """Jain index, the worst client and the 95th percentile of a round, for every case and allocator."""
    players, cases = comparison.scenario.allocators, comparison.scenario.cases
    figure = Figure(figsize=(max(7.0, 1.7 * len(cases) + 4), 7.0), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    width = 0.8 / len(players)
    unit = "round" if comparison.scenario.judged == "per-round" else "second"
    for index, player in enumerate(players):
        rows = [row for row in comparison.rows if row.allocator == player.name]
        place = np.arange(len(cases)) + (index - (len(players) - 1) / 2) * width
        for axis, values in zip(
            axes,
            (
                [row.jain_index for row in rows],
                [row.min_goodput for row in rows],
                [row.p95_round_seconds * 1e3 for row in rows],
            ),
            strict=True,
        ):
            axis.bar(place, values, width, color=_COLOURS[index % len(_COLOURS)], label=player.name)
    for axis, label in zip(
        axes, ("Jain index", f"worst client,\ntokens a {unit}", "p95 of a round, ms"), strict=True
    ):
        axis.set_ylabel(label)
        axis.grid(visible=False, axis="x")
    axes[-1].set_xticks(np.arange(len(cases)), [case.name for case in cases])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), 3))
    return figure


def _gain(comparison: Comparison) -> Figure:
    """Gain over the baseline as clients grow apart."""
    cases = [(case, case.spread) for case in comparison.scenario.cases if case.spread is not None]
    figure = Figure(figsize=(6.5, 4.0), layout="constrained")
    axis = figure.subplots()
    gains = {(row.scenario, row.allocator): row.gain for row in comparison.rows}
    for index, player in enumerate(comparison.scenario.allocators):
        axis.plot(
            [spread for _, spread in cases],
            [100 * gains[f"{comparison.scenario.name}/{case.name}", player.name] for case, _ in cases],
            marker="o",
            label=player.name,
            color=_COLOURS[index % len(_COLOURS)],
        )
    axis.set_xlabel("spread of acceptance, ± logits")
    axis.set_ylabel(f"goodput over {comparison.scenario.baseline}, %")
    axis.legend()
    return figure


def _fleet(comparison: Comparison) -> Figure:
    """Utility of the fleet over time, how much the price of budget differs between cells, and moves."""
    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    left, right, moves = figure.subplots(1, 3)
    for each in comparison.played:
        seconds = [moment.seconds for moment in each.fleet]
        colour = _colour(comparison, each)
        left.plot(seconds, [m.utility for m in each.fleet], label=each.player.name, color=colour)
        if each.player.allocator not in {"fixed", "random"}:
            right.plot(seconds, [m.price_spread for m in each.fleet], color=colour)
        if each.player.slow_loop:
            moves.step(seconds, [m.moves for m in each.fleet], where="post", color=colour)
    left.set_ylabel("utility within an interval")
    right.set_ylabel("1 − p10/p90 of the cells' shadow prices")
    right.set_ylim(0, 1)
    moves.set_ylabel("moves")
    for axis in (left, right, moves):
        axis.set_xlabel("seconds")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    return figure
