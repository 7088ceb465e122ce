"""Plays one allocator through one case: puts a cell together as the scenario says and lets it run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from goodspeed_runtime.scheduling.adaptive import AdaptiveAcceptanceEstimator
from goodspeed_runtime.scheduling.allocation import Allocator
from goodspeed_runtime.scheduling.baselines import (
    BestFixedAllocator,
    FixedAllocator,
    RandomAllocator,
    StaticOracleAllocator,
)
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, GoodputEstimator
from goodspeed_runtime.scheduling.gradient import GradientAllocator, SumThroughputAllocator
from goodspeed_runtime.scheduling.ledger import Ledger
from goodspeed_runtime.scheduling.per_second import PerSecondAllocator
from goodspeed_runtime.scheduling.population import Clients
from goodspeed_runtime.scheduling.rules import Rules
from goodspeed_runtime.scheduling.simulator import Cell
from goodspeed_runtime.scheduling.survival import SurvivalEstimator
from goodspeed_runtime.scheduling.trial import PlainTrial
from goodspeed_runtime.scheduling.tried import TriedAllocator
from goodspeed_runtime.scheduling.utility import AlphaFair
from goodspeed_runtime.simulate.cast import Cast
from goodspeed_runtime.simulate.scenario import Acceptance, Case, Player, Scenario

Progress = Callable[[int], None]
_POINTS = 200
_PORTIONS = 50


def play(
    scenario: Scenario, case: Case, player: Player, cast: Cast, *, rounds: int, seed: int, progress: Progress
) -> Ledger:
    """Everything that came of `rounds` rounds; `progress` hears how many more have been played."""
    population = cast.fresh()
    utility = AlphaFair(scenario.fairness)
    acceptance, goodput = acceptance_estimator(player.acceptance), goodput_estimator(player)
    for row in np.flatnonzero(population.present):
        acceptance.add(int(row))
        goodput.add(int(row))
    trial, shares = None, allocator(case, player, utility, seed)
    if player.tries_plain:
        alpha = scenario.fairness if player.fairness is None else player.fairness
        trial = PlainTrial(alpha)
        shares = TriedAllocator(shares, GradientAllocator(AlphaFair(alpha)), trial)
    cell = Cell(
        clients=population,
        rows=np.arange(len(population)),
        rules=rules(scenario, case, player, utility, rounds),
        allocator=shares,
        acceptance=acceptance,
        goodput=goodput,
        generator=np.random.default_rng([seed, 2]),
        survival=survival_estimator(player.acceptance, population, case.budget_tokens),
        changes=cast.changes,
        trial=trial,
    )
    portion = max(rounds // _PORTIONS, 1)
    until = np.inf if scenario.seconds is None else scenario.seconds
    while cell.rounds < rounds and cell.now < until:
        before = cell.rounds
        cell.run(rounds=min(portion, rounds - before), until=until)
        progress(cell.rounds - before)
        if cell.rounds == before:
            break
    progress(rounds - cell.rounds)
    return cell.ledger


def rules(scenario: Scenario, case: Case, player: Player, utility: AlphaFair, rounds: int) -> Rules:
    """How this player's rounds run."""
    by_the_second = player.allocator == "per-second"
    return Rules(
        budget=case.budget_tokens,
        verification=scenario.verification.cost(),
        utility=utility,
        barrier=player.barrier,
        per_second=by_the_second,
        omniscient=player.acceptance.estimator == "oracle" or player.allocator == "static-oracle",
        warm_up_rounds=int(scenario.warm_up_share * rounds),
        every=max(rounds // _POINTS, 1) if scenario.cells is None else 0,
        grants_timing=by_the_second or (player.allocator == "best-fixed" and scenario.judged == "per-second"),
        verifier_decodes=case.verifier_decodes and not player.barrier,
        contention=case.contention,
    )


def allocator(case: Case, player: Player, utility: AlphaFair, seed: int) -> Allocator:
    """The player's allocator, with an α of its own where it has one."""
    if player.fairness is not None:
        utility = AlphaFair(player.fairness)
    match player.allocator:
        case "gradient":
            return GradientAllocator(utility)
        case "per-second":
            return PerSecondAllocator(utility, rescan=player.rescan)
        case "sum-throughput":
            return SumThroughputAllocator()
        case "fixed":
            return FixedAllocator(case.fixed_length)
        case "best-fixed":
            return BestFixedAllocator(utility)
        case "random":
            return RandomAllocator(np.random.default_rng([seed, 3]))
        case "static-oracle":
            return StaticOracleAllocator(utility)


def acceptance_estimator(chosen: Acceptance) -> AcceptanceEstimator:
    """The estimator of α; an oracle's is there to be measured, its estimates are not used."""
    if chosen.estimator == "adaptive":
        return AdaptiveAcceptanceEstimator(prior=chosen.prior, hazard=chosen.hazard)
    return AcceptanceEstimator(
        step=chosen.step, decay=chosen.decay, prior=chosen.prior, idle_step=chosen.idle_step
    )


def survival_estimator(chosen: Acceptance, population: Clients, budget: int) -> SurvivalEstimator | None:
    """The estimator of survival by position, with a row for each client; None where nobody asked for it."""
    if not chosen.by_position:
        return None
    estimator = SurvivalEstimator(longest=max(min(int(population.caps.max()), budget), 1))
    for row in range(len(population)):
        estimator.add(row)
    return estimator


def goodput_estimator(player: Player) -> GoodputEstimator:
    """The estimator of X."""
    return GoodputEstimator(step=player.goodput_step, decay=player.goodput_decay)
