"""Runs a whole scenario: every case, every allocator, on the same clients with the same luck."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from goodspeed_runtime.scheduling.utility import AlphaFair
from goodspeed_runtime.simulate.cast import Cast, cast
from goodspeed_runtime.simulate.fleet import FleetMoment, play_fleet
from goodspeed_runtime.simulate.loading import ScenarioError
from goodspeed_runtime.simulate.play import Progress, play
from goodspeed_runtime.simulate.results import Played, Row, rows_of
from goodspeed_runtime.simulate.scenario import Case, Player, Scenario

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that came of a scenario.

    Attributes:
        scenario: As played, with the rounds and the seed that were asked for.
        rows: The figures.
        played: The same with every curve, in the same order.
    """

    scenario: Scenario
    rows: list[Row]
    played: list[Played]


def compare(
    scenario: Scenario, *, rounds: int | None = None, seed: int | None = None, report: Report | None = None
) -> Comparison:
    """Plays the scenario; `report` hears what is being played, how many rounds are done, and of how many.

    Raises:
        ScenarioError: A run came to its end before its warm-up did.
    """
    changed = {"rounds": rounds or scenario.rounds, "seed": scenario.seed if seed is None else seed}
    scenario = scenario.model_copy(update=changed)
    total = len(scenario.cases) * len(scenario.allocators) * scenario.rounds
    done, rows, played = 0, list[Row](), list[Played]()
    for case in scenario.cases:
        them = cast(scenario, case, rounds=scenario.rounds, seed=scenario.seed)
        here = []
        for player in scenario.allocators:

            def progress(more: int, what: str = f"{case.name}: {player.name}") -> None:
                nonlocal done
                done += more
                if report is not None:
                    report(what, done, total)

            here.append(_play(scenario, case, player, them, progress))
        rows += rows_of(scenario, case, them, here, seed=scenario.seed, rounds=scenario.rounds)
        played += here
    return Comparison(scenario, rows, played)


def _play(scenario: Scenario, case: Case, player: Player, them: Cast, progress: Progress) -> Played:
    rounds, seed, cells = scenario.rounds, scenario.seed, scenario.cells
    fleet: list[FleetMoment] = []
    if cells is None:
        ledger = play(scenario, case, player, them, rounds=rounds, seed=seed, progress=progress)
    else:
        ledger, fleet = play_fleet(
            scenario, case, player, them, cells, rounds=rounds, seed=seed, progress=progress
        )
    if not ledger.round_seconds:
        raise ScenarioError(
            f"{case.name}: {player.name} played no round after warm-up; "
            "raise seconds, lower warmUpShare, or let more clients be present"
        )
    figures = ledger.figures(
        weights=them.population.weights,
        utility=AlphaFair(scenario.fairness),
        per_second=scenario.judged == "per-second",
    )
    return Played(case, player, ledger, fleet, figures)
