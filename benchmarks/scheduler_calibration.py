"""Finds the acceptances with which Fixed-S meets each paper cell's published utility (PAPER §V).

The paper does not print its clients' acceptance. Of the many that fit its Fixed-S, this takes
logits spread evenly around a middle: for each spread the middle follows from the published
utility. Prints what each spread would let the gradient gain, so that a spread can be chosen
and written into the scenario.
"""

import numpy as np

from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, GoodputEstimator
from goodspeed_runtime.scheduling.goodput import expected_goodput
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.population import Clients
from goodspeed_runtime.scheduling.simulator import Cell, Rules
from goodspeed_runtime.scheduling.timing import VerificationCost
from goodspeed_runtime.scheduling.utility import AlphaFair

CELLS = {  # name: clients, budget, utility of Fixed-S, utility of GoodSpeed, Fixed-S's length when not C/N
    "Qwen-4 C24": (4, 24, 4.61, 4.64, None),
    "Qwen-4 C28": (4, 28, 4.73, 4.99, None),
    "Qwen-8 C16": (8, 16, 7.99, 8.32, None),
    "Qwen-8 C20": (8, 20, 8.72, 9.29, 2),
    "Llama-8 C16": (8, 16, 8.49, 8.62, None),
    "Llama-8 C20": (8, 20, 9.31, 9.48, None),
}


def acceptances(count: int, middle: float, spread: float) -> np.ndarray:
    """Logits spread evenly by ± spread around the middle."""
    return np.minimum(1 / (1 + np.exp(-(middle + spread * np.linspace(-1, 1, count)))), 0.998)


def fixed_utility(alpha: np.ndarray, budget: int, length: int | None) -> float:
    """What Fixed-S tends to; a rest of C/N goes round."""
    share, left = divmod(budget, len(alpha)) if length is None else (length, 0)
    part = left / len(alpha)
    mean = (1 - part) * expected_goodput(alpha, np.array(share)) + part * expected_goodput(
        alpha, np.array(share + 1)
    )
    return float(np.log(mean).sum())


def gradient_utility(alpha: np.ndarray, budget: int, rounds: int = 4000) -> float:
    """What the published scheduler reaches with its estimates (eta 0.1, beta 0.5)."""
    size = len(alpha)
    zeros = np.zeros(size)
    acceptance, goodput = AcceptanceEstimator(step=0.1, ceiling=0.999), GoodputEstimator(step=0.5)
    for row in range(size):
        acceptance.add(row)
        goodput.add(row)
    cell = Cell(
        clients=Clients(np.ones(size), alpha, zeros, zeros, np.full(size, budget), np.ones(size, bool)),
        rows=np.arange(size),
        rules=Rules(budget, VerificationCost.linear(1.0, 0.0), AlphaFair()),
        allocator=GradientAllocator(),
        acceptance=acceptance,
        goodput=goodput,
        generator=np.random.default_rng(0),
    )
    cell.run(rounds=rounds)
    return float(np.log(cell.ledger.goodput_per_round()).sum())


def main() -> None:
    """Prints one line a cell and spread."""
    for name, (count, budget, fixed, published, length) in CELLS.items():
        for spread in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5):
            low, high = -8.0, 12.0
            for _ in range(60):
                middle = (low + high) / 2
                below = fixed_utility(acceptances(count, middle, spread), budget, length) < fixed
                low, high = (middle, high) if below else (low, middle)
            alpha = acceptances(count, high, spread)
            found = gradient_utility(alpha, budget)
            print(
                f"{name:12} spread {spread:4} fixed {fixed_utility(alpha, budget, length):5.2f} "
                f"gradient {found:5.2f} "
                f"published {published:5.2f} gain {np.expm1((found - fixed) / count):6.2%} of "
                f"{np.expm1((published - fixed) / count):6.2%}  {np.round(alpha, 4).tolist()}",
                flush=True,
            )


if __name__ == "__main__":
    main()
