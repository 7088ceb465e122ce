"""The slow loop at scale: 100 cells, 10,000 drafters, load that drifts, measured prices that tremble.

    python benchmarks/rebalancing.py [--hours 4] [--cells 100] [--drafters 10000] [--interval 30]

Between two decisions every cell gives its drafters the long-run optimum of the gradient scheduler, so that
hours pass in seconds; `goodspeed simulate --scenario fleet` plays the rounds themselves. Load comes and goes
by neighbourhoods: each drafter's chance to be busy follows a day's curve whose phase is that of the cell it
began in, and its acceptance wanders. The central optimum has all budgets in one cell.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.rebalancing.decide import decide
from goodspeed_runtime.rebalancing.decision import Limits
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import Cells, CostCurve, Drafters, Drafts, Observation
from goodspeed_runtime.rebalancing.shares import Demand

PERIOD_HOURS = 4.0
SHORTEST_HOLD, LONGEST_HOLD = 300.0, 3600.0


@dataclass
class World:
    """What the drafters are like at one moment."""

    generator: np.random.Generator
    cells: int
    drafters: int
    interval: float

    def __post_init__(self) -> None:
        size = self.drafters
        self.home = np.arange(size) * self.cells // size
        self.phase = 2 * np.pi * self.home / self.cells
        self.logit = self.generator.normal(0.7, 0.8, size)
        self.middle = self.logit.copy()
        self.hold = self.generator.uniform(SHORTEST_HOLD, LONGEST_HOLD, size)
        self.busy = self.generator.random(size) < self.chance(0.0)

    def chance(self, seconds: float) -> np.ndarray:
        """Of being busy, by drafter."""
        return 0.5 + 0.4 * np.sin(2 * np.pi * seconds / (3600 * PERIOD_HOURS) + self.phase)

    def step(self, seconds: float) -> None:
        """One interval later."""
        again = self.generator.random(self.drafters) < self.interval / self.hold
        wanted = self.generator.random(self.drafters) < self.chance(seconds)
        self.busy = np.where(again, wanted, self.busy)
        self.logit += -0.01 * (self.logit - self.middle) + self.generator.normal(0, 0.05, self.drafters)

    @property
    def acceptance(self) -> np.ndarray:
        """The true α of every drafter."""
        return 1 / (1 + np.exp(-self.logit))


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Plays the hours; returns what they came to."""
    generator = np.random.default_rng(arguments.seed)
    count, size = arguments.cells, arguments.drafters
    world = World(generator, count, size, arguments.interval)
    budgets = np.full(count, arguments.budget)
    names = tuple(f"cell-{i}" for i in range(count)), tuple(f"drafter-{i}" for i in range(size))
    ones, caps = np.ones(size), np.full(size, 8)
    attached, history = world.home.copy(), History()
    limits = Limits(hysteresis=arguments.hysteresis, cooldown=arguments.cooldown)
    whole = np.zeros(size, np.int64)
    figures: dict[str, list[float]] = {
        name: [] for name in ("with", "without", "best", "moves", "decide", "gap")
    }
    intervals = int(arguments.hours * 3600 / arguments.interval)
    for step in range(intervals):
        now = step * arguments.interval
        world.step(now)
        demand = Demand(
            weights=ones, acceptance=world.acceptance, sequences=world.busy * 1.0, caps=caps, fairness=1.0
        )
        shares = demand.solve(attached, budgets)
        figures["with"].append(shares.utility.sum())
        figures["without"].append(demand.solve(world.home, budgets).utility.sum())
        figures["best"].append(demand.solve(whole, budgets.sum(keepdims=True)).utility.sum())
        dear, cheap = np.quantile(shares.prices, [0.9, 0.1])
        figures["gap"].append(1 - cheap / dear if dear > 0 else 0.0)
        observation = Observation(
            now,
            Cells(
                names[0],
                shares.prices * generator.lognormal(0, arguments.noise, count),
                budgets,
                budgets,
                tuple(CostCurve() for _ in range(count)),
                np.zeros(count, bool),
                np.zeros(count),
                np.zeros(count),
            ),
            Drafters(
                names[1],
                whole,
                attached,
                ones,
                np.clip(world.acceptance + generator.normal(0, arguments.noise / 2, size), 0.01, 0.99),
                world.busy * 1.0,
                shares.goodput * world.busy,
                caps,
                shares.goodput * world.busy,
                world.busy * 1.0,
                Drafts(
                    np.minimum(shares.tokens, 1), np.maximum(shares.tokens, 1), np.zeros(size), np.zeros(size)
                ),
            ),
            barrier=True,
        )
        began = time.perf_counter()
        outcome = decide(observation, limits, history)
        figures["decide"].append(time.perf_counter() - began)
        history = outcome.history.after(outcome.changes, now, limits.cooldown)
        attached = attached.copy()
        for each in outcome.changes:
            attached[int(each.subject.partition("-")[2])] = int(each.destination.partition("-")[2])
        figures["moves"].append(len(outcome.changes))
    steady = slice(intervals // 4, None)
    mean = {name: float(np.mean(values[steady])) for name, values in figures.items()}
    close = np.flatnonzero(np.array(figures["with"]) >= 0.95 * np.array(figures["best"]))
    return {
        "hours": arguments.hours,
        "cells": count,
        "drafters": size,
        "utility_of_optimum": round(mean["with"] / mean["best"], 4),
        "utility_without_rebalancing": round(mean["without"] / mean["best"], 4),
        "worst_moment": round(float((np.array(figures["with"]) / figures["best"])[steady].min()), 4),
        "seconds_to_95_percent": float(close[0] * arguments.interval) if len(close) else float("inf"),
        "moves_per_drafter_and_hour": round(mean["moves"] / size * 3600 / arguments.interval, 3),
        "price_gap_p90_p10": round(mean["gap"], 3),
        "longest_decision_seconds": round(max(figures["decide"]), 3),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--hours", type=float, default=4.0)
    result.add_argument("--cells", type=int, default=100)
    result.add_argument("--drafters", type=int, default=10_000)
    result.add_argument("--interval", type=float, default=30.0)
    result.add_argument("--budget", type=int, default=100)
    result.add_argument("--hysteresis", type=float, default=0.2)
    result.add_argument("--cooldown", type=float, default=120.0)
    result.add_argument("--noise", type=float, default=0.05, help="of measured prices, relative")
    result.add_argument("--seed", type=int, default=0)
    return result


if __name__ == "__main__":
    print(json.dumps(run(parser().parse_args()), indent=2))
