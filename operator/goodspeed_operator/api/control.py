"""The two control loops: grants in the verifier every round, rebalancing in the operator every interval."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from goodspeed_operator.api.part import Checked, Part
from goodspeed_operator.api.scalars import URL, DurationText, between, least

LEAST_STEP = 0.0001

AcceptanceStep = Annotated[float, Field(ge=LEAST_STEP, le=1), least("acceptanceStep", LEAST_STEP)]
GoodputStep = Annotated[float, Field(ge=LEAST_STEP, le=1), least("goodputStep", LEAST_STEP)]


class Utility(Part):
    """The α-fair utility of goodput."""

    alpha: Annotated[float, Field(ge=0, le=10)] = 1
    """0 maximises the sum, 1 is proportional fairness (log), larger is fairer."""


class Scheduler(Part):
    """How a verifier shares its budget among drafters."""

    allocator: Literal["gradient", "fixed", "random"] = "gradient"
    """gradient solves the paper's eq. 5; fixed and random are for comparison."""
    objective: Literal["perRound", "perSecond"] = "perRound"
    """Whether goodput counts tokens per round or per second."""
    utility: Utility = Field(default=Utility())
    """What is maximised."""
    acceptance_step: AcceptanceStep = 0.1
    """Step of the acceptance estimate, from just above 0 (slow) to 1 (only the latest)."""
    goodput_step: GoodputStep = 0.1
    """Step of the goodput estimate."""


class Prometheus(Part):
    """Where the fleet's metrics are read."""

    url: URL
    """Base URL of a Prometheus-compatible server."""


class Caps(Part):
    """What rebalancing never exceeds."""

    gpus: Annotated[int, Field(ge=0, le=65_536)] | None = None
    """NVIDIA devices of the whole fleet."""
    drafters: Annotated[int, Field(ge=0, le=16_384)] | None = None
    """Drafters of all pools together."""
    moves_per_interval: Annotated[int, Field(ge=0, le=16_384)] | None = None
    """Drafters that change cell at once; without a number, a quarter of them, at least one."""


class Rebalance(Part):
    """How the operator moves drafters between cells and sizes pools and budgets."""

    mode: Literal["Off", "Recommend", "Auto"] = "Recommend"
    """Recommend shows decisions in status, Auto carries them out."""
    interval: Annotated[DurationText, Checked(*between("interval", "5s", "1h").rules)] = "30s"
    """Time between two decisions."""
    cooldown: Annotated[DurationText, Checked(*between("cooldown", "0s", "24h").rules)] = "2m"
    """Time after a change in which the same pool or cell is left alone."""
    hysteresis: Annotated[float, Field(ge=0, le=10)] = 0.2
    """How much better a change must be, as a fraction, to be worth it."""
    caps: Caps = Field(default=Caps())
    """What rebalancing never exceeds."""
    prometheus: Prometheus | None = None
    """Where metrics are read; without one, the operator scrapes the pods itself."""
