"""How long one division of the budget takes, by clients, and how long the simulator takes for its rounds.

    python benchmarks/scheduler.py [--json FILE] [--plots FOLDER] [--repeat 15]

Everything runs in one thread. A figure is the best of its repeats on the wall's clock, and the mean of the
processor's time, which other work on the machine hardly adds to. Acceptance, goodput, weights and caps are
drawn at random; C is four times the number of clients. The hard ones: everybody alike, so that all gains are
ties; goodput a million times apart; half of the clients worth nothing. Per second: drafts of at most 8
tokens, the deadline chosen every 8th time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from goodspeed_runtime.scheduling.allocation import Refinements
from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.per_second import PerSecondAllocator
from goodspeed_runtime.scheduling.timing import Timing, VerificationCost
from goodspeed_runtime.scheduling.utility import AlphaFair
from goodspeed_runtime.simulate.comparison import compare
from goodspeed_runtime.simulate.loading import preset

SIZES = (8, 64, 1_000, 10_000, 100_000, 300_000, 1_000_000)
LARGEST, SMALL = SIZES[-1], 64
ROUNDS = 100_000

Columns = dict[str, Floats | Integers]


def drawn(size: int, kind: str) -> Columns:
    """One instance of a kind."""
    generator = np.random.default_rng(size)
    columns: Columns = {
        "weights": generator.uniform(0.5, 2, size),
        "acceptance": generator.uniform(0.1, 0.95, size),
        "goodput": generator.uniform(1, 8, size),
        "caps": generator.integers(4, 17, size),
    }
    match kind:
        case "alike":
            columns |= {"weights": np.ones(size), "acceptance": np.full(size, 0.7), "goodput": np.ones(size)}
        case "far apart":
            columns |= {"goodput": np.exp(generator.uniform(-7, 7, size)), "caps": np.full(size, 64)}
        case "half worthless":
            columns |= {"weights": np.where(generator.random(size) < 0.5, 0, 1.0)}
    return columns


def timed(work: Callable[[], object], repeat: int, inner: int) -> tuple[float, float]:
    """Seconds of one of `repeat` times `inner` calls: the best on the wall, the mean on the processor."""
    wall, processor = [], []
    for _ in range(repeat):
        began = time.perf_counter(), time.process_time()
        for _ in range(inner):
            work()
        wall.append((time.perf_counter() - began[0]) / inner)
        processor.append((time.process_time() - began[1]) / inner)
    return min(wall), sum(processor) / repeat


def solve(size: int, kind: str, alpha: float, repeat: int) -> dict[str, object]:
    """The time of one division."""
    columns, allocator = drawn(size, kind), GradientAllocator(AlphaFair(alpha))
    inner = max(1, min(2000, 20_000 // size))
    wall, processor = timed(lambda: allocator.allocate(**columns, budget=4 * size), repeat, inner)  # type: ignore[arg-type]
    return {
        "what": "solve",
        "kind": kind,
        "clients": size,
        "budget": 4 * size,
        "alpha": alpha,
        "seconds": wall,
        "processor_seconds": processor,
    }


def solve_per_second(size: int, repeat: int) -> dict[str, object]:
    """The time of one division for goodput per second, as the verifier asks for it, the mean of 64."""
    generator = np.random.default_rng(size)
    timing = Timing(
        generator.uniform(0.005, 0.05, size),
        generator.uniform(0.01, 0.1, size),
        VerificationCost.linear(0.03, 0.0002),
    )
    columns, allocator = drawn(size, "random"), PerSecondAllocator(rescan=8)
    columns["caps"] = np.full(size, 8)
    wall, processor = timed(
        lambda: allocator.allocate(**columns, budget=4 * size, refinements=Refinements(timing=timing)),  # type: ignore[arg-type]
        repeat,
        64,
    )
    return {
        "what": "solve per second",
        "kind": "per second",
        "clients": size,
        "budget": 4 * size,
        "alpha": 1.0,
        "seconds": wall,
        "processor_seconds": processor,
    }


def rounds(repeat: int) -> dict[str, object]:
    """The time of the scenario `drift` with 8 clients, played by the gradient as published."""
    scenario = preset("drift")
    player = next(each for each in scenario.allocators if each.name == scenario.baseline)
    scenario = scenario.model_copy(update={"allocators": [player]})
    wall, processor = timed(lambda: compare(scenario, rounds=ROUNDS), repeat, 1)
    return {
        "what": "rounds",
        "kind": "drift",
        "clients": scenario.cases[0].size,
        "budget": scenario.cases[0].budget_tokens,
        "alpha": scenario.fairness,
        "rounds": ROUNDS,
        "seconds": wall,
        "processor_seconds": processor,
    }


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:9.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:9.1f} ms"


def draw(rows: list[dict[str, object]], folder: Path) -> list[Path]:
    """Time by clients, both logarithmic, beside a straight line of slope one."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    points = [
        (float(str(r["clients"])), float(str(r["processor_seconds"]))) for r in rows if r["kind"] == "random"
    ]
    clients, seconds = np.array(points).T
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "goodspeed"}
    figure = Figure(figsize=(6.5, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.loglog(clients, seconds * 1e3, marker="o", color="#1f6fb4", label="one solve, measured")
    axis.loglog(clients, clients * seconds[-1] / clients[-1] * 1e3, color="#888888", ls="--", label="linear")
    axis.set_xlabel("clients (budget: four times as many tokens)")
    axis.set_ylabel("milliseconds, one core")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="upper left")
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"scheduler-solve.{kind}" for kind in ("svg", "png")]
    for path in written:
        figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    return written


def main() -> None:
    """Prints the table, and writes JSON and pictures where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the growth there")
    parser.add_argument("--repeat", type=int, default=15, help="the best of how many")
    arguments = parser.parse_args()
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = []
    print("  clients    budget  utility  instance            best, wall    processor  a client")
    plan = [(size, "random", 1.0) for size in SIZES]
    plan += [(LARGEST, "random", alpha) for alpha in (0.0, 2.0, 50.0)]
    plan += [
        (size, kind, 1.0) for size in (SMALL, LARGEST) for kind in ("alike", "far apart", "half worthless")
    ]
    plan += [(size, "per second", 1.0) for size in (8, SMALL)]
    for size, kind, alpha in plan:
        if kind == "per second":
            row = solve_per_second(size, max(arguments.repeat // 3, 1))
        else:
            row = solve(size, kind, alpha, arguments.repeat)
        rows.append(row)
        wall, processor = float(str(row["seconds"])), float(str(row["processor_seconds"]))
        print(
            f"{size:9d} {4 * size:9d}  α = {alpha:<4g} {kind:15} {_time(wall):>12} {_time(processor):>12}"
            f"  {processor / size * 1e9:.0f} ns",
            flush=True,
        )
    row = rounds(max(arguments.repeat // 5, 1))
    rows.append(row)
    print(
        f"{row['clients']} clients, {ROUNDS} rounds of {row['kind']}: {row['seconds']:.1f} s, "
        f"of the processor {row['processor_seconds']:.1f} s"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if arguments.plots:
        for path in draw([row for row in rows if row["alpha"] == 1.0], arguments.plots):
            print(f"{path} written")


if __name__ == "__main__":
    main()
