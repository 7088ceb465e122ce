"""How near the gradient's long-run goodput comes to the optimum x* that scipy finds on its own.

    python benchmarks/scheduler_convergence.py [--instances 10] [--rounds 200000] [--json FILE]

Acceptance is constant; weights, caps, budget and acceptance are drawn at random. x* maximises Σ w·U(x) over
the convex hull of what divisions of the budget yield (PAPER, Theorems 1 to 4). For scipy it is a linear
program of tangents: U is replaced by tangents, one more at each solution, until the solution lies on them
(Kelley's cutting planes). The deviation is the largest one of any client, |x_i/x*_i - 1|. Both step sizes
fall as Theorem 1 asks; the rounds of the first fifth do not count. Then, in a tenth of the rounds, the
least by which the utility of the running average is above the better of Fixed-S and Random-S at any of 80
moments after the first fifth; below zero it would be worse than one of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack, vstack

from goodspeed_runtime.scheduling.allocation import Allocator
from goodspeed_runtime.scheduling.arrays import Floats
from goodspeed_runtime.scheduling.baselines import FixedAllocator, RandomAllocator
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, GoodputEstimator
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.ledger import Ledger
from goodspeed_runtime.scheduling.population import Clients
from goodspeed_runtime.scheduling.rules import Rules
from goodspeed_runtime.scheduling.simulator import Cell
from goodspeed_runtime.scheduling.timing import VerificationCost
from goodspeed_runtime.scheduling.utility import AlphaFair

ACCEPTANCE_DECAY, GOODPUT_DECAY = 0.9, 0.6


def instance(size: int, seed: int) -> tuple[Clients, int]:
    """Clients and a budget, drawn at random."""
    generator = np.random.default_rng([seed, size])
    clients = Clients(
        weights=generator.uniform(0.5, 2, size),
        acceptance=generator.uniform(0.2, 0.9, size),
        draft_seconds=np.zeros(size),
        delay_seconds=np.zeros(size),
        caps=generator.integers(4, 17, size),
        floors=np.zeros(size, np.int64),
        fade=np.ones(size),
        present=np.ones(size, np.bool_),
    )
    return clients, int(generator.integers(2, 6)) * size


def independent_optimum(clients: Clients, budget: int, alpha: float) -> Floats:
    """x*, float64 `[n]`, by linear programs of scipy's HiGHS; shares nothing with the scheduler's own.

    Variables are how much of each row's j-th token is granted, in [0, 1], and each row's utility.
    """
    size, tokens = len(clients), int(clients.caps.max())
    places = np.arange(tokens)
    steps = clients.acceptance[:, None] ** (places + 1)
    upper = (places < clients.caps[:, None]).astype(float)
    rows = np.repeat(np.arange(size), tokens)
    earn = csr_array((steps.ravel(), (rows, np.arange(size * tokens))), (size, size * tokens))
    spend = np.concatenate([np.ones(size * tokens), np.zeros(size)])[None]

    def utility(x: Floats) -> Floats:
        return np.log(x) if alpha == 1 else x ** (1 - alpha) / (1 - alpha)

    # t <= U(y) + U'(y)(1 + earn·f - y): tangents at `grid` points at first.
    most = 1 + (steps * upper).sum(axis=1)
    points = [1 + (most - 1) * share for share in np.linspace(0, 1, 9)]
    bounds = [*((0, each) for each in upper.ravel()), *((None, None) for _ in range(size))]
    cost = np.concatenate([np.zeros(size * tokens), -clients.weights])
    one = csr_array(np.eye(size))
    while True:
        cuts, limits = [csr_array(spend)], [np.array([float(budget)])]
        for y in points:
            slope = y**-alpha
            cuts.append(hstack([csr_array(earn.multiply(-slope[:, None])), one]))
            limits.append(utility(y) + slope * (1 - y))
        found = linprog(
            cost,
            A_ub=csr_array(vstack(cuts)),
            b_ub=np.concatenate(limits),
            bounds=bounds,
            method="highs",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if found.status != 0:
            raise RuntimeError(found.message)
        x = 1 + earn @ found.x[: size * tokens]
        above = float(clients.weights @ (found.x[size * tokens :] - utility(x)))
        if above < 1e-9 * size:
            return np.asarray(x)
        points.append(x)


def play(
    clients: Clients,
    budget: int,
    allocator: Allocator,
    alpha: float,
    *,
    rounds: int,
    seed: int,
    every: int = 0,
) -> Ledger:
    """What came of the rounds; the first fifth is left out of the sums."""
    acceptance = AcceptanceEstimator(step=0.0, decay=ACCEPTANCE_DECAY)
    goodput = GoodputEstimator(step=0.0, decay=GOODPUT_DECAY)
    for row in range(len(clients)):
        acceptance.add(row)
        goodput.add(row)
    cell = Cell(
        clients=clients,
        rows=np.arange(len(clients)),
        rules=Rules(
            budget=budget,
            verification=VerificationCost.linear(1.0, 0.0),
            utility=AlphaFair(alpha),
            warm_up_rounds=rounds // 5,
            every=every,
        ),
        allocator=allocator,
        acceptance=acceptance,
        goodput=goodput,
        generator=np.random.default_rng([seed, 7]),
    )
    cell.run(rounds=rounds)
    return cell.ledger


def deviation(size: int, alpha: float, seed: int, rounds: int) -> tuple[float, float]:
    """The largest deviation of a client's long-run goodput from x*, and how far the sum is off."""
    clients, budget = instance(size, seed)
    optimum = independent_optimum(clients, budget, alpha)
    ledger = play(clients, budget, GradientAllocator(AlphaFair(alpha)), alpha, rounds=rounds, seed=seed)
    found = ledger.goodput_per_round()
    return float(np.abs(found / optimum - 1).max()), float(found.sum() / optimum.sum() - 1)


def margin(size: int, alpha: float, seed: int, rounds: int) -> float:
    """The least that the gradient's utility is above the better of Fixed-S and Random-S, after warm-up."""
    curves = []
    for allocator in (
        GradientAllocator(AlphaFair(alpha)),
        FixedAllocator(),
        RandomAllocator(np.random.default_rng([seed, 3])),
    ):
        clients, budget = instance(size, seed)
        ledger = play(clients, budget, allocator, alpha, rounds=rounds, seed=seed, every=rounds // 100)
        curves.append([m.utility for m in ledger.moments if m.rounds >= rounds // 5])
    gradient, *others = np.array(curves)
    return float((gradient - np.max(others, axis=0)).min())


def main() -> None:
    """Prints a line for every size and α, and writes all of them where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=200_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every instance's figures there")
    arguments = parser.parse_args()
    rows = []
    print(
        "clients  alpha  worst client of an instance, largest and mean   sum off by at most   utility above"
    )
    for size in (8, 64):
        for alpha in (1.0, 2.0):
            found = [deviation(size, alpha, seed, arguments.rounds) for seed in range(arguments.instances)]
            above = [margin(size, alpha, seed, arguments.rounds // 10) for seed in range(arguments.instances)]
            worst, sums = zip(*found, strict=True)
            print(
                f"{size:7d}  {alpha:5g}  {max(worst):28.2%} {np.mean(worst):13.2%}"
                f" {max(map(abs, sums)):20.2%} {min(above):15.3f}",
                flush=True,
            )
            rows += [
                {
                    "clients": size,
                    "alpha": alpha,
                    "seed": seed,
                    "worst_client": a,
                    "sum": b,
                    "utility_above": c,
                }
                for seed, ((a, b), c) in enumerate(zip(found, above, strict=True))
            ]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
