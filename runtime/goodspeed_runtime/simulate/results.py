"""The figures of a comparison: one row an allocator and case, for the table and for JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from goodspeed_runtime.scheduling.allocation import Refinements
from goodspeed_runtime.scheduling.goodput import equivalent_goodput
from goodspeed_runtime.scheduling.ledger import Figures, Ledger
from goodspeed_runtime.scheduling.optimum import optimal_goodput
from goodspeed_runtime.scheduling.utility import AlphaFair
from goodspeed_runtime.simulate.cast import Cast
from goodspeed_runtime.simulate.fleet import FleetMoment
from goodspeed_runtime.simulate.scenario import Case, Player, Scenario


@dataclass(frozen=True, slots=True)
class Played:
    """What came of one player in one case.

    Attributes:
        case: Where.
        player: Who.
        ledger: All sums and curves.
        fleet: The curve of a scenario with cells; empty otherwise.
        figures: The summary, judged as the scenario says.
    """

    case: Case
    player: Player
    ledger: Ledger
    fleet: list[FleetMoment]
    figures: Figures


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, and one object of the JSON, with these names as keys.

    Attributes:
        scenario: The scenario's name, with the case's after a slash where there are several.
        allocator: The player's name.
        utility: Σ w·U(goodput), goodput per round or per second as `judged` says.
        jain_index: Of goodput over weight.
        min_goodput: The worst client's.
        p95_round_seconds: 95th percentile of the rounds' lengths.
        goodput_per_round: Tokens of all clients of a cell in a round.
        goodput_per_second: Tokens of all clients a second.
        optimum_gap: 1 − g/g*, with g the goodput that, had by everyone, would be worth the utility, and g*
            that of the optimum: the convex program's where nothing changes, else the best row's.
        gain: g over the baseline's g, minus 1.
        published_gain: The same by the paper's figures, where it has the case and the allocator.
        waiting_share: Share of the time that the verifier waited for drafts.
        regret: Mean share of equation 5's best value, under the true α, that grants missed; None where
            goodput is judged per second, and for a fleet.
        tracking_error: Root mean square of α̂ − α; None for a fleet.
        judged: per-round or per-second.
        seed: Of the run.
        rounds: Played, of a cell.
    """

    scenario: str
    allocator: str
    utility: float
    jain_index: float
    min_goodput: float
    p95_round_seconds: float
    goodput_per_round: float
    goodput_per_second: float
    optimum_gap: float
    gain: float
    published_gain: float | None
    waiting_share: float
    regret: float | None
    tracking_error: float | None
    judged: str
    seed: int
    rounds: int


def rows_of(
    scenario: Scenario, case: Case, cast: Cast, played: Sequence[Played], *, seed: int, rounds: int
) -> list[Row]:
    """The rows of one case, in the order of its players."""
    utility = AlphaFair(scenario.fairness)
    best = _optimum(scenario, case, cast, utility)
    if best is None:
        best = max(each.figures.equivalent for each in played)
    base = next(p.figures.equivalent for p in played if p.player.name == scenario.baseline)
    label = scenario.name if len(scenario.cases) == 1 else f"{scenario.name}/{case.name}"
    return [_row(label, scenario, each, best, base, seed, rounds) for each in played]


def _row(
    label: str, scenario: Scenario, played: Played, best: float, base: float, seed: int, rounds: int
) -> Row:
    figures = played.figures
    moments = [m for m in played.ledger.moments if m.rounds > scenario.warm_up_share * rounds]
    return Row(
        scenario=label,
        allocator=played.player.name,
        utility=figures.utility,
        jain_index=figures.jain_index,
        min_goodput=figures.min_goodput,
        p95_round_seconds=figures.p95_round_seconds,
        goodput_per_round=figures.goodput_per_round,
        goodput_per_second=figures.goodput_per_second,
        optimum_gap=1 - figures.equivalent / best,
        gain=figures.equivalent / base - 1,
        published_gain=_published_gain(played.case, played.player),
        waiting_share=figures.waiting_share,
        regret=float(np.mean([m.regret for m in moments]))
        if moments and scenario.judged == "per-round"
        else None,
        tracking_error=float(np.sqrt(np.mean([m.error**2 for m in moments]))) if moments else None,
        judged=scenario.judged,
        seed=seed,
        rounds=rounds,
    )


def _published_gain(case: Case, player: Player) -> float | None:
    """Σ log of the paper says it for the geometric mean of its clients, over Fixed-S."""
    known = case.published
    utility = {"fixed": known.fixed, "random": known.random, "gradient": known.gradient} if known else {}
    chosen = utility.get(player.allocator)
    if known is None or chosen is None or player.acceptance.estimator == "oracle":
        return None
    return float(np.exp((chosen - known.fixed) / case.size)) - 1


def _optimum(scenario: Scenario, case: Case, cast: Cast, utility: AlphaFair) -> float | None:
    """g* of the convex program, where there is one: constant α, goodput per round, one cell."""
    if scenario.changing(case) or scenario.judged == "per-second" or scenario.cells or not utility.alpha:
        return None
    them = cast.population
    longest = max(min(int(them.caps.max()), case.budget_tokens), 1)
    by_position = them.by_position(np.arange(len(them)), longest)
    goodput = optimal_goodput(
        weights=them.weights,
        acceptance=them.acceptance,
        caps=them.caps,
        budget=case.budget_tokens,
        utility=utility,
        refinements=Refinements(
            floors=them.floors, survival=np.cumprod(by_position, axis=1, dtype=np.float64)
        ),
    )
    return equivalent_goodput(goodput, them.weights, utility)


def to_json(rows: Sequence[Row]) -> str:
    """The rows as a JSON list; what cannot be said is null."""
    plain = [{name: _plain(getattr(row, name)) for name in Row.__slots__} for row in rows]
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
