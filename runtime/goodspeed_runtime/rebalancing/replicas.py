"""Replicas: pools grow where requests wait and shrink where drafters stand idle, within the fleet's caps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.rebalancing.decision import Action, Decision, Limits, Why
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import Observation, Pool
from goodspeed_runtime.scheduling.utility import AlphaFair

TARGET = 0.7
"""Share of a pool's places that should be taken."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What one more drafter of a pool would bring.

    Attributes:
        rate: committed tokens per second of a busy drafter.
        gain: utility, less what its share of the budget costs the others.
    """

    rate: float
    gain: float


def scale(observation: Observation, limits: Limits, history: History) -> list[Decision]:
    """How pools should be resized now; includes holds that say why a pool that should grow does not."""
    pools = observation.pools
    cooling = history.cooling("pool", [pool.name for pool in pools], observation.time, limits.cooldown)
    worth = [_worth(observation, index, limits) for index in range(len(pools))]
    total, gpus = sum(pool.replicas for pool in pools), observation.gpus
    over = _over_the_cap(pools, worth, gpus, limits)
    if over is not None:
        return [over]
    decisions = []
    saturated = bool(len(observation.cells) and observation.cells.saturated.all())

    def per_cost(index: int) -> float:
        return worth[index].rate / max(pools[index].cost, 1e-9)

    for index in sorted(range(len(pools)), key=per_cost, reverse=True):
        pool = pools[index]
        # A pool that still changes shows the load of what it was.
        if pool.fewest >= pool.most or cooling[index] or pool.ready != pool.replicas:
            continue
        wanted = _wanted(pool, limits.hysteresis)
        if wanted == pool.replicas:
            continue
        if wanted < pool.replicas:
            decisions.append(_resize(pool, pool.replicas - 1, Why.IDLE, 0.0, _words(pool)))
            total -= 1
            gpus -= pool.gpus
            continue
        room = wanted - pool.replicas
        if limits.drafters is not None:
            room = min(room, limits.drafters - total)
        if limits.gpus is not None and pool.gpus:
            room = min(room, (limits.gpus - gpus) // pool.gpus)
        if room <= 0:
            decisions.append(Decision(Action.HOLD, Why.CAP_REACHED, pool.name, words=_words(pool)))
        elif saturated:
            decisions.append(Decision(Action.HOLD, Why.SATURATED, pool.name, words=_words(pool)))
        elif worth[index].gain <= 0:
            decisions.append(Decision(Action.HOLD, Why.NOT_WORTH_IT, pool.name, words=_words(pool)))
        else:
            gain = room * worth[index].gain
            decisions.append(_resize(pool, pool.replicas + room, Why.QUEUE, gain, _words(pool)))
            total += room
            gpus += room * pool.gpus
    return decisions


def _over_the_cap(
    pools: Sequence[Pool], worth: Sequence[Worth], gpus: int, limits: Limits
) -> Decision | None:
    """A pool to shrink when somebody has lowered the cap below what there is."""
    if limits.gpus is None or gpus <= limits.gpus:
        return None
    candidates = [i for i, pool in enumerate(pools) if pool.gpus and pool.replicas > pool.fewest]
    if not candidates:
        return None
    index = min(candidates, key=lambda i: worth[i].rate / max(pools[i].cost, 1e-9))
    pool = pools[index]
    fewer = math.ceil((gpus - limits.gpus) / pool.gpus)
    words = f"the fleet has {gpus} GPUs, {limits.gpus} are allowed"
    return _resize(pool, max(pool.fewest, pool.replicas - fewer), Why.CAP_REACHED, 0.0, words)


def _wanted(pool: Pool, hysteresis: float) -> int:
    places = max(pool.places, 1.0)
    wanted = pool.replicas
    if pool.replicas == 0:
        wanted = 1 if pool.load > 0 else 0
    elif pool.waiting > hysteresis * places:
        wanted = min(2 * pool.replicas, max(pool.replicas + 1, math.ceil(pool.load / (places * TARGET))))
    elif pool.load * (1 + hysteresis) < (pool.replicas - 1) * places * TARGET:
        wanted = pool.replicas - 1
    return max(pool.fewest, min(pool.most, wanted))


def _worth(observation: Observation, index: int, limits: Limits) -> Worth:
    drafters, cells = observation.drafters, observation.cells
    busy = np.flatnonzero((drafters.pools == index) & (drafters.sequences > 0) & (drafters.cells >= 0))
    if not len(busy):
        return Worth(0.0, math.inf)  # nothing is known against it
    present = np.minimum(drafters.sequences[busy], 1.0)
    goodput = drafters.goodput[busy] / present
    utility = AlphaFair(limits.fairness).value(np.maximum(goodput, 1.0))
    prices = cells.prices[drafters.cells[busy]]
    # Beyond the first token, which every round gives, a token of goodput costs at least one of budget.
    gain = drafters.weights[busy] * utility - prices * np.maximum(goodput - 1, 0)
    return Worth(float(drafters.rates[busy].mean()), float(gain.mean()))


def _resize(pool: Pool, replicas: int, why: Why, gain: float, words: str) -> Decision:
    gain = gain if math.isfinite(gain) else 0.0
    return Decision(Action.SCALE, why, pool.name, str(pool.replicas), str(replicas), gain, words)


def _words(pool: Pool) -> str:
    places = pool.replicas * pool.places
    return f"{pool.load:.3g} requests on {places:.3g} places, {pool.waiting:.3g} of them waiting"
