"""Placement: drafters go from cells where budget is dear to cells where it is cheap.

Cells are paired, the dearest with the cheapest, and where their prices differ by more than the hysteresis the
drafters with the largest shares move until half of it is left. The model says what a move does to both
prices; a pair whose gap would not narrow is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.rebalancing.decision import Action, Decision, Limits, Why
from goodspeed_runtime.rebalancing.earnings import BUSY
from goodspeed_runtime.rebalancing.forecast import Forecast
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import Observation
from goodspeed_runtime.rebalancing.shares import Demand, Shares
from goodspeed_runtime.scheduling.arrays import Flags, Floats, Integers

PASSES = 10
_RATIO = 4.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Moves, or why there are none.

    Attributes:
        decisions: moves; empty to hold.
        history: with this observation's prices in it.
        why: the reason to hold.
        words: the same for a person.
    """

    decisions: tuple[Decision, ...]
    history: History
    why: Why = Why.BALANCED
    words: str = ""


def place(observation: Observation, limits: Limits, history: History) -> Placement:
    """Which drafters should change cell now."""
    cells, drafters = observation.cells, observation.drafters
    attached = drafters.cells >= 0
    if len(cells) < 2 or not attached.any():
        return Placement((), history, Why.BALANCED, "there are not two cells to choose from")
    rows = np.flatnonzero(attached)
    demand = Demand(
        weights=drafters.weights[rows],
        acceptance=drafters.acceptance[rows],
        sequences=drafters.sequences[rows],
        caps=drafters.caps[rows],
        fairness=limits.fairness,
    )
    before = drafters.cells[rows]
    now = demand.solve(before, cells.budgets)
    history = _learned(cells.names, cells.prices, now, history)
    correction = np.array([history.corrections.get(name, 1.0) for name in cells.names])
    prices = now.prices * correction
    gap = _gap(prices.min(), prices.max())
    if gap <= limits.hysteresis:
        return Placement((), history, Why.BALANCED, f"shadow prices differ by {gap:.0%}")
    open_cells = ~history.cooling("cell", cells.names, observation.time, limits.cooldown)
    names = [drafters.names[row] for row in rows]
    movable = (drafters.sequences[rows] > BUSY) & ~history.cooling(
        "drafter", names, observation.time, limits.cooldown
    )
    after, refused = _search(
        demand, before, cells.budgets, correction, now, open_cells, movable, limits, len(drafters)
    )
    moved = np.flatnonzero(after != before)
    if not len(moved):
        return Placement((), history, refused, f"shadow prices differ by {gap:.0%}")
    gain = float(Forecast(observation, rows, demand, limits.fairness).gains(after, cells.budgets).sum())
    if gain < limits.least_gain * len(moved):
        words = f"{len(moved)} moves would bring {gain:.3g} of utility"
        return Placement((), history, Why.NOT_WORTH_IT, words)
    parts = (prices[before[moved]] - prices[after[moved]]) * now.tokens[moved]
    parts = gain * parts / parts.sum() if parts.sum() > 0 else np.full(len(moved), gain / len(moved))
    decisions = tuple(
        Decision(
            Action.MOVE,
            Why.PRICE_GAP,
            subject=names[row],
            source=cells.names[before[row]],
            destination=cells.names[after[row]],
            expected_gain=float(part),
            words=f"shadow price {prices[before[row]]:.3g} against {prices[after[row]]:.3g}",
        )
        for row, part in zip(moved, parts, strict=True)
    )
    return Placement(decisions, history)


def _gap(cheap: float, dear: float) -> float:
    return float(1 - cheap / dear) if dear > 0 else 0.0


def _learned(names: tuple[str, ...], measured: Floats, model: Shares, history: History) -> History:
    """Takes in how the cells' measured prices compare with the model's."""
    known = (measured > 0) & (model.prices > 0)
    ratios = np.clip(measured[known] / model.prices[known], 1 / _RATIO, _RATIO)
    return history.corrected(
        {names[cell]: float(ratio) for cell, ratio in zip(np.flatnonzero(known), ratios, strict=True)}
    )


def _search(
    demand: Demand,
    before: Integers,
    budgets: Integers,
    correction: Floats,
    shares: Shares,
    open_cells: Flags,
    movable: Flags,
    limits: Limits,
    drafters: int,
) -> tuple[Integers, Why]:
    """The cells after all moves, int64 as `before`, and why there is no (further) move."""
    current, left = before.copy(), limits.most_moves(drafters)
    usable, movable = open_cells.copy(), movable.copy()
    why = Why.COOLING_DOWN if not (open_cells.all() and movable.any()) else Why.NOT_WORTH_IT
    for step in range(PASSES):
        threshold = limits.hysteresis if step == 0 else limits.hysteresis / 2
        prices = shares.prices * correction
        candidate = current.copy()
        pairs = []
        order = np.flatnonzero(usable)
        order = order[np.argsort(prices[order], kind="stable")]
        for cheap, dear in zip(order[: len(order) // 2], order[::-1], strict=False):
            if left <= 0 or _gap(prices[cheap], prices[dear]) <= threshold:
                break
            chosen = _choose(shares, current, movable, correction, int(dear), int(cheap), left)
            if not len(chosen):
                usable[dear] = False
                continue
            candidate[chosen] = cheap
            left -= len(chosen)
            pairs.append((dear, cheap, chosen))
        if not pairs:
            return current, Why.CAP_REACHED if left <= 0 else why
        trial = demand.solve(candidate, budgets)
        new_prices = trial.prices * correction
        undone = False
        for dear, cheap, chosen in pairs:
            movable[chosen] = False
            if abs(new_prices[dear] - new_prices[cheap]) >= prices[dear] - prices[cheap]:
                candidate[chosen] = dear
                left += len(chosen)
                undone = True
        current = candidate
        shares = demand.solve(current, budgets) if undone else trial
    return current, Why.CAP_REACHED if left <= 0 else why


def _choose(
    shares: Shares, current: Integers, movable: Flags, correction: Floats, dear: int, cheap: int, left: int
) -> Integers:
    """The rows to move from one cell to another in this pass, largest shares first."""
    members = np.flatnonzero((current == dear) & movable & (shares.tokens > 0))
    if not len(members):
        return members
    members = members[np.argsort(-shares.tokens[members], kind="stable")]
    prices, slopes = shares.prices * correction, shares.slopes * correction
    slope = slopes[dear] + slopes[cheap]
    wanted = (prices[dear] - prices[cheap]) / slope / 2 if slope > 0 else 0.0
    total = np.cumsum(shares.tokens[members])
    count = int(np.searchsorted(total, wanted, side="right"))
    return members[: min(count, left)] if count else members[-1:]
