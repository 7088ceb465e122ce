"""Many cells at once, and the slow loop that moves drafters from dear budget to cheap budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.rebalancing.decide import decide
from goodspeed_runtime.rebalancing.decision import Limits
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import Cells as CellTable
from goodspeed_runtime.rebalancing.observation import CostCurve, Drafters, Drafts, Observation
from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.ledger import Ledger
from goodspeed_runtime.scheduling.population import Clients
from goodspeed_runtime.scheduling.simulator import Cell
from goodspeed_runtime.scheduling.timing import VerificationCost
from goodspeed_runtime.scheduling.utility import AlphaFair
from goodspeed_runtime.simulate.cast import Cast
from goodspeed_runtime.simulate.play import (
    Progress,
    acceptance_estimator,
    allocator,
    goodput_estimator,
    rules,
    survival_estimator,
)
from goodspeed_runtime.simulate.scenario import Case, Cells, Player, Scenario


@dataclass(frozen=True, slots=True)
class FleetMoment:
    """The fleet over one interval of the slow loop.

    Attributes:
        seconds: Simulated time at its end.
        rounds: Rounds of a cell until then, on average.
        utility: Σ w·U of the goodput per round within the interval.
        price_spread: 1 − p10/p90 of the cells' shadow prices: 0 when budget costs the same everywhere.
        moves: Drafters that changed cell at its end.
    """

    seconds: float
    rounds: int
    utility: float
    price_spread: float
    moves: int = 0


def play_fleet(
    scenario: Scenario,
    case: Case,
    player: Player,
    cast: Cast,
    cells: Cells,
    *,
    rounds: int,
    seed: int,
    progress: Progress,
) -> tuple[Ledger, list[FleetMoment]]:
    """As `play`, for `cells.count` verifiers of the case's budget each; `rounds` are every cell's, about."""
    population = cast.fresh()
    utility = AlphaFair(scenario.fairness)
    acceptance, goodput = acceptance_estimator(player.acceptance), goodput_estimator(player)
    for row in range(len(population)):
        acceptance.add(row)
        goodput.add(row)
    cell_of = cast.cell_of.copy()
    survival = survival_estimator(player.acceptance, population, case.budget_tokens)
    ledger, moments = Ledger.empty(len(population)), list[FleetMoment]()
    fleet = [
        Cell(
            clients=population,
            rows=np.flatnonzero(cell_of == index),
            rules=rules(scenario, case, player, utility, rounds),
            allocator=allocator(case, player, utility, seed + index),
            acceptance=acceptance,
            goodput=goodput,
            generator=np.random.default_rng([seed, 2, index]),
            ledger=ledger,
            survival=survival,
        )
        for index in range(cells.count)
    ]
    names = tuple(f"cell-{i}" for i in range(cells.count)), tuple(f"d-{i}" for i in range(len(population)))
    limits = Limits(
        hysteresis=cells.hysteresis,
        cooldown=cells.cooldown_seconds,
        moves=max(1, round(cells.share * len(population))),
        fairness=scenario.fairness,
    )
    history = History()
    now, played = 0.0, 0
    end = np.inf if scenario.seconds is None else scenario.seconds
    tokens, lived = np.zeros(len(population)), np.zeros(len(population))
    while played < rounds and now < end:
        now += cells.interval_seconds
        for cell in fleet:
            cell.run(until=now)
        prices = np.array([cell.take_mean_price() for cell in fleet])
        reached = int(np.mean([cell.rounds for cell in fleet]))
        progress(min(reached, rounds) - min(played, rounds))
        played = reached
        new_tokens, new_rounds = ledger.tokens - tokens, ledger.rounds - lived
        tokens, lived = ledger.tokens.copy(), ledger.rounds.copy()
        moves = 0
        if player.slow_loop and new_rounds.min() > 0:
            rows = np.arange(len(population))
            observation = Observation(
                now,
                _cell_table(names[0], prices, case.budget_tokens, fleet[0].rules.verification),
                Drafters(
                    names=names[1],
                    pools=np.zeros(len(population), np.int64),
                    cells=cell_of.copy(),
                    weights=population.weights,
                    acceptance=acceptance.estimates(rows),
                    sequences=np.ones(len(population)),
                    goodput=new_tokens / new_rounds,
                    caps=population.caps,
                    rates=new_tokens / cells.interval_seconds,
                    present=np.ones(len(population)),
                    drafts=_drafts(population, acceptance.estimates(rows), new_tokens / new_rounds),
                ),
                barrier=player.barrier,
            )
            outcome = decide(observation, limits, history)
            history = outcome.history.after(outcome.changes, now, limits.cooldown)
            moves = len(outcome.changes)
            for each in outcome.changes:
                row, origin, target = (
                    int(name.rpartition("-")[2]) for name in (each.subject, each.source, each.destination)
                )
                fleet[origin].leave(row)
                fleet[target].join(row)
                cell_of[row] = target
        if new_rounds.min() > 0:
            moments.append(
                _moment(now, played, prices, new_tokens / new_rounds, population.weights, utility, moves)
            )
    progress(rounds - min(played, rounds))
    return ledger, moments


def _cell_table(names: tuple[str, ...], prices: Floats, budget: int, cost: VerificationCost) -> CellTable:
    """The cells as the slow loop observes them; their budget is the scenario's to set."""
    budgets: Integers = np.full(len(names), budget, np.int64)
    curve, nothing = CostCurve(np.array(cost.tokens), np.array(cost.seconds)), np.zeros(len(names))
    curves = tuple(curve for _ in names)
    return CellTable(names, prices, budgets, budgets, curves, nothing > 0, nothing, nothing)


def _drafts(population: Clients, acceptance: Floats, goodput: Floats) -> Drafts:
    """How drafts come, of the length with which goodput is what it was."""
    missing = np.maximum(1 - goodput * (1 - acceptance), 1e-9)
    tokens = np.clip(np.log(missing) / np.log(acceptance) - 1, 0.0, population.caps)
    lengths = np.maximum(tokens, 1.0)
    seconds = population.delay_seconds + lengths * population.draft_seconds
    return Drafts(np.minimum(tokens, 1.0), lengths, seconds, population.draft_seconds)


def _moment(
    now: float,
    rounds: int,
    prices: Floats,
    goodput: Floats,
    weights: Floats,
    utility: AlphaFair,
    moves: int,
) -> FleetMoment:
    dear, cheap = np.quantile(prices, [0.9, 0.1])
    return FleetMoment(
        seconds=now,
        rounds=rounds,
        utility=float((weights * utility.value(goodput)).sum()),
        price_spread=float(1 - cheap / dear) if dear > 0 else 0.0,
        moves=moves,
    )
