"""Budget: C of a cell follows its measured cost curve T_V(tokens).

The best C gives the largest goodput per second, Σ x(C) / T_V(tokens), among those whose round keeps the
latency target; x(C) is the long-run optimum of the cell's drafters. A step goes at most to the double or the
half, and not beyond twice what was measured: further out the curve is a guess.
"""

from __future__ import annotations

import numpy as np

from goodspeed_runtime.rebalancing.decision import Action, Decision, Limits, Why
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import CostCurve, Observation
from goodspeed_runtime.rebalancing.shares import Demand
from goodspeed_runtime.scheduling.arrays import Floats, Integers

LEAST_BUDGET = 4
GRID = 2.0 ** np.arange(-4, 4.01, 0.25)


def pass_seconds(curve: CostCurve, tokens: Floats) -> Floats:
    """T_V at `tokens`, float64 of any shape.

    Straight between measured points, never falling, and beyond them as the last two points say.
    """
    seconds = np.maximum.accumulate(curve.seconds)
    inside = np.interp(tokens, curve.tokens, seconds)
    if len(curve.tokens) < 2:
        return inside
    slope = (seconds[-1] - seconds[-2]) / max(curve.tokens[-1] - curve.tokens[-2], 1e-9)
    return np.asarray(inside + slope * np.maximum(tokens - curve.tokens[-1], 0.0))


def follow_cost(observation: Observation, limits: Limits, history: History) -> list[Decision]:
    """How cells' budgets should change now."""
    cells = observation.cells
    cooling = history.cooling("cell", cells.names, observation.time, limits.cooldown)
    decisions = []
    for cell, name in enumerate(cells.names):
        if cooling[cell] or not len(cells.curves[cell].tokens):
            continue
        found = _best(observation, cell, limits)
        if found is not None:
            budget, why, gain, words = found
            decisions.append(
                Decision(Action.BUDGET, why, name, str(cells.budgets[cell]), str(budget), gain, words)
            )
    return decisions


def _best(observation: Observation, cell: int, limits: Limits) -> tuple[int, Why, float, str] | None:
    cells, drafters = observation.cells, observation.drafters
    rows = np.flatnonzero((drafters.cells == cell) & (drafters.sequences > 0))
    now, curve = int(cells.budgets[cell]), cells.curves[cell]
    if not len(rows):
        return None
    demand = Demand(
        weights=drafters.weights[rows],
        acceptance=drafters.acceptance[rows],
        sequences=drafters.sequences[rows],
        caps=drafters.caps[rows],
        fairness=limits.fairness,
    )
    most = min(int(cells.most_budgets[cell]), int(max(2 * curve.tokens[-1], now)))
    wide: Integers = np.unique(np.clip(np.rint(now * GRID), LEAST_BUDGET, max(most, LEAST_BUDGET))).astype(
        np.int64
    )
    candidates = np.unique(np.append(wide, now))
    goodput, tokens, utility = _outcomes(demand, candidates, drafters.sequences[rows])
    seconds = pass_seconds(curve, tokens)
    rate = goodput / seconds
    current = int(np.searchsorted(candidates, now))
    late = np.zeros(len(candidates), bool) if limits.latency is None else seconds > limits.latency
    allowed = np.flatnonzero(~late)
    if late[current]:
        best = int(allowed[-1]) if len(allowed) else 0
        chosen = max(int(candidates[best]), now // 2, LEAST_BUDGET)
        words = f"a round takes {seconds[current]:.3g} s, {limits.latency:.3g} s are allowed"
        gain = float(np.interp(chosen, candidates, utility) - utility[current])
        return None if chosen >= now else (chosen, Why.LATENCY, gain, words)
    best = int(allowed[np.argmax(rate[allowed])])
    if rate[best] <= rate[current] * (1 + limits.hysteresis):
        return None
    chosen = int(np.clip(candidates[best], -(-now // 2), 2 * now))
    words = f"{rate[best]:.3g} tokens a second at {candidates[best]}, {rate[current]:.3g} at {now}"
    gain = float(np.interp(chosen, candidates, utility) - utility[current])
    return None if chosen == now else (chosen, Why.GOODPUT, gain, words)


def _outcomes(demand: Demand, budgets: Integers, sequences: Floats) -> tuple[Floats, Floats, Floats]:
    """Tokens a round, tokens fed to the target, and utility at each budget: float64 `[b]` each."""
    present = np.minimum(sequences, 1.0)
    found = []
    for budget in budgets:
        shares = demand.solve(np.zeros(len(sequences), np.int64), np.array([budget]))
        fed = shares.tokens.sum() + sequences.sum()
        found.append(((present * shares.goodput).sum(), fed, shares.utility.sum()))
    goodput, fed, utility = np.array(found).T
    return goodput, fed, utility
