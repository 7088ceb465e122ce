"""Fleets as arrays behind a barrier, whose prices and goodput are what the model itself expects."""

import numpy as np

from goodspeed_runtime.rebalancing.observation import Cells, CostCurve, Drafters, Drafts, Observation, Pool
from goodspeed_runtime.rebalancing.shares import Demand


def fleet(
    cells,
    sequences=None,
    *,
    count=2,
    acceptance=0.7,
    budget=8,
    curve=None,
    time=1000.0,
    pools=(),
    weights=None,
    caps=8,
    gpus=0,
    saturated=False,
):
    """Drafter i is in ``cells[i]``."""
    cells = np.asarray(cells, np.int64)
    size = len(cells)
    acceptance = np.broadcast_to(np.asarray(acceptance, float), size).copy()
    sequences = np.ones(size) if sequences is None else np.asarray(sequences, float)
    weights = np.ones(size) if weights is None else np.asarray(weights, float)
    caps = np.full(size, caps)
    demand = Demand(weights=weights, acceptance=acceptance, sequences=sequences, caps=caps, fairness=1.0)
    budgets = np.broadcast_to(np.asarray(budget), count).copy()
    attached = np.maximum(cells, 0)
    shares = demand.solve(attached, budgets)
    goodput = shares.goodput * np.minimum(sequences, 1)
    single = shares.tokens / np.maximum(sequences, 1e-9)
    drafts = Drafts(np.minimum(single, 1), np.maximum(single, 1), np.zeros(size), np.zeros(size))
    return Observation(
        time,
        Cells(
            tuple(f"cell-{i}" for i in range(count)),
            shares.prices,
            budgets,
            budgets * 8,
            tuple(curve or CostCurve() for _ in range(count)),
            np.full(count, saturated),
            np.zeros(count),
            np.zeros(count),
        ),
        Drafters(
            tuple(f"drafter-{i}" for i in range(size)),
            np.zeros(size, np.int64),
            cells,
            weights,
            acceptance,
            sequences,
            goodput,
            caps,
            10 * goodput,
            np.minimum(sequences, 1),
            drafts,
        ),
        tuple(pools),
        gpus,
        barrier=True,
    )


def pool(**changes):
    return Pool(
        **{
            "name": "pool",
            "replicas": 2,
            "ready": 2,
            "fewest": 1,
            "most": 8,
            "load": 8.0,
            "waiting": 0.0,
            "places": 4.0,
            "gpus": 0,
            "cost": 1.0,
        }
        | changes
    )
