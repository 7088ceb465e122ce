"""A decision as data: what, from, to, why, and what it should bring."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """All that can be decided."""

    HOLD = "Hold"
    MOVE = "Move"
    SCALE = "Scale"
    BUDGET = "Budget"


class Why(StrEnum):
    """All reasons there are."""

    PRICE_GAP = "PriceGap"
    QUEUE = "Queue"
    IDLE = "Idle"
    GOODPUT = "GoodputPerSecond"
    LATENCY = "LatencyTarget"
    BALANCED = "Balanced"
    COOLING_DOWN = "CoolingDown"
    NOT_WORTH_IT = "NotWorthIt"
    CAP_REACHED = "CapReached"
    SATURATED = "VerifierSaturated"
    METRICS_MISSING = "MetricsMissing"
    METRICS_STALE = "MetricsStale"
    PROMETHEUS_ERROR = "PrometheusError"
    ROLLING_OUT = "RollingOut"
    OBSERVING = "Observing"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision.

    Attributes:
        action: what to do.
        reason: why, of a closed set.
        subject: the drafter, pool or cell it is about; empty for the whole fleet.
        source, destination: from what to what: cells, replicas or tokens.
        expected_gain: utility that it should bring, by the model.
        words: why, for a person.
    """

    action: Action
    reason: Why
    subject: str = ""
    source: str = ""
    destination: str = ""
    expected_gain: float = 0.0
    words: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user allows; times in seconds.

    Attributes:
        hysteresis: how much better a change must be, as a fraction.
        cooldown: time after a change in which its drafter, pool and cells are left alone.
        moves: most moves of one decision; None is a quarter of the drafters, at least one.
        gpus: most devices of the fleet; None for no limit.
        drafters: most drafters of the fleet; None for no limit.
        automatic_budget: whether C may be changed.
        latency: longest time of a round, where C may be changed; None for no limit.
        fairness: α of the utility.
        least_gain: utility that a moved drafter must bring; less is not worth its prompt's second reading.
    """

    hysteresis: float = 0.2
    cooldown: float = 120.0
    moves: int | None = None
    gpus: int | None = None
    drafters: int | None = None
    automatic_budget: bool = False
    latency: float | None = None
    fairness: float = 1.0
    least_gain: float = 0.01

    def most_moves(self, drafters: int) -> int:
        """Of one decision in a fleet of so many."""
        return max(1, drafters // 4) if self.moves is None else self.moves
