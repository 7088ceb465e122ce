"""What the operator reports: conditions of a closed set, figures per cell and pool, last decisions."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from goodspeed_operator.api.part import Part


class ConditionType(StrEnum):
    """All conditions there are."""

    READY = "Ready"
    VERIFIER_READY = "VerifierReady"
    DRAFTERS_READY = "DraftersReady"
    METRICS_AVAILABLE = "MetricsAvailable"
    REBALANCING = "Rebalancing"
    DEGRADED = "Degraded"


class Reason(StrEnum):
    """All reasons there are, of all conditions."""

    ALL_READY = "AllReady"
    STARTING = "Starting"
    RESTING = "Resting"
    ROLLING_OUT = "RollingOut"
    NOT_READY = "NotReady"
    AS_EXPECTED = "AsExpected"
    SPEC_INVALID = "SpecInvalid"
    INTERNAL_ERROR = "InternalError"
    APPLY_REFUSED = "ApplyRefused"
    NAME_TAKEN = "NameTaken"
    POD_REFUSED = "PodRefused"
    VOLUME_UNAVAILABLE = "VolumeUnavailable"
    UNSCHEDULABLE = "Unschedulable"
    EVICTED = "Evicted"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_MISMATCH = "ModelMismatch"
    CONFIG_INVALID = "ConfigInvalid"
    OUT_OF_MEMORY = "OutOfMemory"
    CRASH_LOOP = "CrashLoop"
    METRICS_FRESH = "MetricsFresh"
    METRICS_STALE = "MetricsStale"
    METRICS_MISSING = "MetricsMissing"
    PROMETHEUS_ERROR = "PrometheusError"
    REBALANCE_OFF = "Off"
    RECOMMENDING = "Recommending"
    APPLYING = "Applying"
    HOLDING = "Holding"


Text = Annotated[str, StringConstraints(max_length=256)]
Figure = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=65_536)]
Time = Annotated[str, StringConstraints(max_length=32)]


class StatusPart(Part):
    """A part of status; fields that a newer operator wrote are passed over."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusPart):
    """One condition, of KEP-1623's shape."""

    type: ConditionType = Field(strict=False)
    """What the condition is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Reason = Field(strict=False)
    """Why, in a word of a closed set."""
    message: Annotated[str, StringConstraints(max_length=4096)] = ""
    """Why, for a person; pods' own words where they failed."""
    last_transition_time: Annotated[Time, Field(json_schema_extra={"format": "date-time"})]
    """When status last changed."""
    observed_generation: Annotated[int, Field(ge=0, le=2**53)] | None = None
    """Generation of the spec that this is about."""


class CellStatus(StatusPart):
    """One cell."""

    name: Text
    """Name of the verifier pod."""
    ready: bool = False
    """Whether it serves."""
    drafters: Count = 0
    """Drafters attached."""
    budget_tokens: Count | None = None
    """C in force."""
    shadow_price: Figure | None = None
    """λ: utility that one more token of budget would bring."""
    goodput_tokens_per_second: Figure | None = None
    """Committed tokens per second."""
    round_seconds: Figure | None = None
    """Mean time of a round."""


class PoolStatus(StatusPart):
    """One pool."""

    name: Text
    """Name of the pool."""
    model: Annotated[str, StringConstraints(max_length=512)] = ""
    """The draft model in force."""
    cells: Annotated[list[Count], Field(max_length=64)] = Field(default=[])
    """Ordinals of the cells it is attached to."""
    revision: Text = ""
    """Revision of the target it is attached to."""
    replicas: Count = 0
    """Drafters there are."""
    ready_replicas: Count = 0
    """Drafters that serve."""
    acceptance_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """α: share of drafted tokens that were accepted."""
    grant_tokens: Figure | None = None
    """Mean grant."""
    goodput_tokens_per_second: Figure | None = None
    """Committed tokens per second."""


class DecisionStatus(StatusPart):
    """One decision of rebalancing, also when it was to hold."""

    time: Annotated[Time, Field(json_schema_extra={"format": "date-time"})]
    """When it was made."""
    action: Text
    """What: Hold, Move, Scale or Budget."""
    subject: Text = ""
    """The pool or cell it is about."""
    source: Text = ""
    """From what."""
    destination: Text = ""
    """To what."""
    reason: Text = ""
    """Why, in a word."""
    message: Annotated[str, StringConstraints(max_length=1024)] = ""
    """Why, for a person."""
    expected_gain: Annotated[float, Field(ge=-1e12, le=1e12)] | None = None
    """Utility that it should bring."""
    actual_gain: Annotated[float, Field(ge=-1e12, le=1e12)] | None = None
    """Utility that the drafters concerned had more of two intervals later; none: not known yet."""
    applied: bool = False
    """Whether it was carried out."""


class VerifierStatus(StatusPart):
    """The verifiers together."""

    replicas: Count = 0
    """Verifiers there are."""
    ready_replicas: Count = 0
    """Verifiers that serve."""
    selector: Annotated[str, StringConstraints(max_length=512)] = ""
    """Label selector of their pods, for the scale subresource."""
    summary: Text = ""
    """Ready of wanted, for people."""


class DrafterStatus(StatusPart):
    """All drafters together."""

    replicas: Count = 0
    """Drafters there are."""
    ready_replicas: Count = 0
    """Drafters that serve."""
    summary: Text = ""
    """Ready of wanted, for people."""


class Status(StatusPart):
    """The fleet as last observed."""

    observed_generation: Annotated[int, Field(ge=0, le=2**53)] | None = None
    """Generation of the spec that this status is about."""
    conditions: Annotated[
        list[Condition], Field(max_length=16, json_schema_extra={"x-kubernetes-list-map-keys": ["type"]})
    ] = Field(default=[])
    """Ready, VerifierReady, DraftersReady, MetricsAvailable, Rebalancing, Degraded."""
    revision: Text = ""
    """Revision of the target that drafters are attached to."""
    rollout: Text = ""
    """Where a change of target stands."""
    verifiers: VerifierStatus = Field(default=VerifierStatus())
    """The verifiers together."""
    drafters: DrafterStatus = Field(default=DrafterStatus())
    """All drafters together."""
    goodput: Text = ""
    """Committed tokens per second, for people."""
    fairness: Text = ""
    """Jain's index of the drafters' goodput, for people."""
    cells: Annotated[
        list[CellStatus], Field(max_length=128, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]})
    ] = Field(default=[])
    """Figures per cell."""
    pools: Annotated[
        list[PoolStatus], Field(max_length=64, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]})
    ] = Field(default=[])
    """Figures per pool."""
    decisions: Annotated[list[DecisionStatus], Field(max_length=16)] = Field(default=[])
    """Last decisions of rebalancing, newest first."""
