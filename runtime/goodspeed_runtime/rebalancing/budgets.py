"""Budget: C of a cell follows its measured cost curve T_V(tokens).

The best C gives the largest goodput per second, Σ x(C) / T_V(tokens), among those whose round keeps the
latency target; x(C) is the long-run optimum of the cell's drafters. A step goes at most to the double or the
half, and not beyond twice what was measured: further out the curve is a guess.
"""

from __future__ import annotations

import numpy as np

from goodspeed_runtime.rebalancing.costs import pass_seconds
from goodspeed_runtime.rebalancing.decision import Action, Decision, Limits, Why
from goodspeed_runtime.rebalancing.forecast import Forecast
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import Observation
from goodspeed_runtime.rebalancing.shares import Demand
from goodspeed_runtime.scheduling.arrays import Floats, Integers

LEAST_BUDGET = 4
GRID = 2.0 ** np.arange(-4, 4.01, 0.25)


def follow_cost(observation: Observation, limits: Limits, history: History) -> list[Decision]:
    """How cells' budgets should change now."""
    cells = observation.cells
    cooling = history.cooling("cell", cells.names, observation.time, limits.cooldown)
    budgets, chosen = cells.budgets.copy(), dict[int, tuple[Why, str]]()
    for cell in np.flatnonzero(~cooling).tolist():
        found = _best(observation, cell, limits) if len(cells.curves[cell].tokens) else None
        if found is not None:
            budgets[cell] = found[0]
            chosen[cell] = found[1:]
    if not chosen:
        return []
    attached = np.flatnonzero(observation.drafters.cells >= 0)
    here = observation.drafters.cells[attached]
    forecast = Forecast(observation, attached, _demand(observation, attached, limits), limits.fairness)
    gains = np.bincount(here, forecast.gains(here, budgets), len(cells))
    return [
        Decision(
            Action.BUDGET,
            why,
            cells.names[cell],
            str(cells.budgets[cell]),
            str(budgets[cell]),
            float(gains[cell]),
            words,
        )
        for cell, (why, words) in chosen.items()
    ]


def _demand(observation: Observation, rows: Integers, limits: Limits) -> Demand:
    drafters = observation.drafters
    return Demand(
        weights=drafters.weights[rows],
        acceptance=drafters.acceptance[rows],
        sequences=drafters.sequences[rows],
        caps=drafters.caps[rows],
        fairness=limits.fairness,
    )


def _best(observation: Observation, cell: int, limits: Limits) -> tuple[int, Why, str] | None:
    cells, drafters = observation.cells, observation.drafters
    rows = np.flatnonzero((drafters.cells == cell) & (drafters.sequences > 0))
    now, curve = int(cells.budgets[cell]), cells.curves[cell]
    if not len(rows):
        return None
    most = min(int(cells.most_budgets[cell]), int(max(2 * curve.tokens[-1], now)))
    wide: Integers = np.unique(np.clip(np.rint(now * GRID), LEAST_BUDGET, max(most, LEAST_BUDGET))).astype(
        np.int64
    )
    candidates = np.unique(np.append(wide, now))
    goodput, tokens = _outcomes(_demand(observation, rows, limits), candidates, drafters.sequences[rows])
    seconds = pass_seconds(curve, tokens)
    rate = goodput / seconds
    current = int(np.searchsorted(candidates, now))
    late = np.zeros(len(candidates), bool) if limits.latency is None else seconds > limits.latency
    allowed = np.flatnonzero(~late)
    if late[current]:
        best = int(allowed[-1]) if len(allowed) else 0
        chosen = max(int(candidates[best]), now // 2, LEAST_BUDGET)
        words = f"a round takes {seconds[current]:.3g} s, {limits.latency:.3g} s are allowed"
        return None if chosen >= now else (chosen, Why.LATENCY, words)
    best = int(allowed[np.argmax(rate[allowed])])
    if rate[best] <= rate[current] * (1 + limits.hysteresis):
        return None
    chosen = int(np.clip(candidates[best], -(-now // 2), 2 * now))
    words = f"{rate[best]:.3g} tokens a second at {candidates[best]}, {rate[current]:.3g} at {now}"
    return None if chosen == now else (chosen, Why.GOODPUT, words)


def _outcomes(demand: Demand, budgets: Integers, sequences: Floats) -> tuple[Floats, Floats]:
    """Tokens a round, and tokens fed to the target, at each budget: float64 `[b]` each."""
    present = np.minimum(sequences, 1.0)
    found = []
    for budget in budgets:
        shares = demand.solve(np.zeros(len(sequences), np.int64), np.array([budget]))
        fed = shares.tokens.sum() + sequences.sum()
        found.append(((present * shares.goodput).sum(), fed))
    goodput, fed = np.array(found).T
    return goodput, fed
