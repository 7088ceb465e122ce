"""All three decisions of the slow loop in one: placement, replicas and budgets, or to hold and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.rebalancing.budgets import follow_cost
from goodspeed_runtime.rebalancing.decision import Action, Decision, Limits, Why
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import Fault, Observation
from goodspeed_runtime.rebalancing.placement import place
from goodspeed_runtime.rebalancing.replicas import scale
from goodspeed_runtime.scheduling.arrays import Floats


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was decided.

    Attributes:
        decisions: at least one; only holds when nothing is to change.
        history: for the next call. Whoever carries decisions out adds them with `History.after`.
    """

    decisions: tuple[Decision, ...]
    history: History

    @property
    def changes(self) -> tuple[Decision, ...]:
        """The decisions that change something."""
        return tuple(each for each in self.decisions if each.action is not Action.HOLD)


def decide(observation: Observation, limits: Limits, history: History) -> Outcome:
    """What should change now, a pure function.

    An observation with a fault, or with a figure that is not finite, leads to a hold whatever else it says.
    """
    fault, words = observation.fault, observation.words
    if fault is None and not _finite(observation):
        fault, words = Fault.MISSING, "a figure is not a finite number"
    if fault is not None:
        return Outcome((Decision(Action.HOLD, Why(fault.value), words=words),), history)
    placement = place(observation, limits, history)
    history = placement.history
    # What placement changes is left alone by the rest, as if it had been done.
    busy = history.after(placement.decisions, observation.time, limits.cooldown)
    decisions = [*placement.decisions, *scale(observation, limits, history)]
    if limits.automatic_budget:
        decisions += follow_cost(observation, limits, busy)
    if not any(each.action is not Action.HOLD for each in decisions):
        decisions.append(Decision(Action.HOLD, placement.why, words=placement.words))
    return Outcome(tuple(decisions), history)


def _finite(observation: Observation) -> bool:
    cells, drafters = observation.cells, observation.drafters
    columns: list[Floats] = [cells.prices, drafters.weights, drafters.acceptance, drafters.sequences]
    columns += [drafters.goodput, drafters.rates, drafters.present, cells.waits, cells.overheads]
    drafts = drafters.drafts
    columns += [drafts.shares, drafts.lengths, drafts.seconds, drafts.token_seconds]
    columns += [column for curve in cells.curves for column in (curve.tokens, curve.seconds)]
    pools = [
        figure for pool in observation.pools for figure in (pool.load, pool.waiting, pool.places, pool.cost)
    ]
    return bool(
        np.isfinite(observation.time)
        and all(np.isfinite(column).all() and (column >= 0).all() for column in columns)
        and np.isfinite(pools).all()
    )
