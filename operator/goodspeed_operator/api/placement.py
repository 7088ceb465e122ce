"""Where pods may run and what they may use: the parts of a pod spec that the resource takes as they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from goodspeed_operator.api.part import Part, Rule
from goodspeed_operator.api.scalars import (
    DataKey,
    LabelKey,
    Labels,
    LabelValue,
    ObjectName,
    Quantity,
    amount,
)

Quantities = Annotated[dict[LabelKey, Quantity], Field(max_length=16)]
LabelValues = Annotated[list[LabelValue], Field(max_length=32)]


def _whole_devices(limits: dict[str, str]) -> bool:
    return all(value.isdigit() for key, value in limits.items() if key.startswith("nvidia.com/"))


class Resources(Part):
    """Requests and limits of the server's container."""

    # Quantities are integers or text. Text functions on them cost too much for the API server's budget before
    # Kubernetes bounds them by maxLength, so CEL compares integers, and Python whatever else is written.
    rules = (
        Rule(
            "self.limits.all(k, type(self.limits[k]) != int || self.limits[k] >= 0) && "
            "self.requests.all(k, type(self.requests[k]) != int || self.requests[k] >= 0)",
            "requests and limits must not be negative; remove the minus sign",
            lambda value: (
                not any(count.startswith("-") for count in (*value.limits.values(), *value.requests.values()))
            ),
        ),
        Rule(
            "self.limits.all(k, !k.startsWith('nvidia.com/') || type(self.limits[k]) == int || "
            f"self.limits[k] in {[str(count) for count in range(17)]})",
            "limits of nvidia.com devices must be whole numbers, such as nvidia.com/gpu: 1",
            lambda value: _whole_devices(value.limits),
            "limits",
        ),
        Rule(
            "self.requests.all(k, !k.startsWith('nvidia.com/') || (k in self.limits && "
            "(type(self.limits[k]) != int || type(self.requests[k]) != int || "
            "(self.limits[k] <= self.requests[k] && self.requests[k] <= self.limits[k]))))",
            "requests of nvidia.com devices must equal their limits; name them in limits alone",
            lambda value: all(
                value.limits.get(key) == count
                for key, count in value.requests.items()
                if key.startswith("nvidia.com/")
            ),
            "requests",
        ),
        Rule(
            "self.requests.all(k, !(k in self.limits) || type(self.limits[k]) != int || "
            "type(self.requests[k]) != int || self.requests[k] <= self.limits[k])",
            "requests must not exceed limits; lower the request or raise the limit",
            lambda value: all(
                amount(asked) <= amount(value.limits[key])
                for key, asked in value.requests.items()
                if key in value.limits
            ),
            "requests",
        ),
    )

    requests: Quantities = Field(default={})
    """What the scheduler sets aside."""
    limits: Quantities = Field(default={})
    """What the container may use at most; GPUs are named here, such as nvidia.com/gpu: 1."""

    @property
    def gpus(self) -> int:
        """How many NVIDIA devices, whole or partitioned, one pod takes."""
        return sum(int(value) for key, value in self.limits.items() if key.startswith("nvidia.com/"))


class Toleration(Part):
    """A taint that the pods accept."""

    rules = (
        Rule(
            "self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "value must be empty where operator is Exists; remove value or use operator Equal",
            lambda value: value.operator != "Exists" or not value.value,
            "value",
        ),
        Rule(
            "(has(self.key) && self.key != '') || self.operator == 'Exists'",
            "key may be left out only with operator Exists; name the taint's key",
            lambda value: bool(value.key) or value.operator == "Exists",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds needs effect NoExecute; set effect or remove tolerationSeconds",
            lambda value: value.toleration_seconds is None or value.effect == "NoExecute",
            "tolerationSeconds",
        ),
    )

    key: LabelKey | None = None
    """The taint's key; without one, every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists accepts any value, Equal the one named."""
    value: LabelValue | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The effect accepted; without one, all."""
    toleration_seconds: Annotated[int, Field(ge=0, le=2_592_000)] | None = None
    """How long a NoExecute taint is borne, in seconds."""


class Requirement(Part):
    """One condition on labels."""

    rules = (
        Rule(
            "self.operator in ['Exists', 'DoesNotExist'] ? size(self.values) == 0 : size(self.values) > 0",
            "values must be empty for Exists and DoesNotExist, and named for every other operator",
            lambda value: (value.operator in {"Exists", "DoesNotExist"}) == (not value.values),
            "values",
        ),
    )

    key: LabelKey
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label is compared."""
    values: LabelValues = Field(default=[])
    """The values it is compared with."""


class NodeRequirement(Requirement):
    """One condition on a node's labels or fields."""

    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]  # type: ignore[assignment]
    """How the label is compared."""


class LabelSelector(Part):
    """Chooses objects by their labels; an empty selector chooses all."""

    match_labels: Labels = Field(default={})
    """Labels that must be there with these values."""
    match_expressions: Annotated[list[Requirement], Field(max_length=16)] = Field(default=[])
    """Further conditions, all of which must hold."""


class NodeSelectorTerm(Part):
    """Conditions on a node, all of which must hold."""

    match_expressions: Annotated[list[NodeRequirement], Field(max_length=16)] = Field(default=[])
    """Conditions on the node's labels."""
    match_fields: Annotated[list[NodeRequirement], Field(max_length=4)] = Field(default=[])
    """Conditions on the node's fields, such as metadata.name."""


class NodeSelector(Part):
    """Nodes of which at least one term holds."""

    node_selector_terms: Annotated[list[NodeSelectorTerm], Field(min_length=1, max_length=16)]
    """The terms."""


class PreferredNodes(Part):
    """Nodes that are preferred, and how much."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """How much a node that fits is preferred."""
    preference: NodeSelectorTerm
    """Which nodes."""


class NodeAffinity(Part):
    """Which nodes pods are drawn to."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """Nodes that pods must run on."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[PreferredNodes], Field(max_length=16)
    ] = Field(default=[])
    """Nodes that pods would rather run on."""


class PodAffinityTerm(Part):
    """Other pods, and what counts as the same place."""

    label_selector: LabelSelector | None = None
    """Which pods."""
    namespace_selector: LabelSelector | None = None
    """In which namespaces, by their labels."""
    namespaces: Annotated[list[ObjectName], Field(max_length=16)] = Field(default=[])
    """In which namespaces, by name; none means the cluster's own."""
    topology_key: LabelKey
    """The node label whose equal values are one place."""


class PreferredPods(Part):
    """Other pods that are preferred as neighbours, and how much."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """How much a place that fits is preferred."""
    pod_affinity_term: PodAffinityTerm
    """Which pods, and what counts as the same place."""


class PodAffinity(Part):
    """Which pods are wanted (or unwanted) as neighbours."""

    required_during_scheduling_ignored_during_execution: Annotated[
        list[PodAffinityTerm], Field(max_length=16)
    ] = Field(default=[])
    """Must hold."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[PreferredPods], Field(max_length=16)
    ] = Field(default=[])
    """Is better when it holds."""


class Affinity(Part):
    """What pods are drawn to and kept from."""

    node_affinity: NodeAffinity | None = None
    """Nodes."""
    pod_affinity: PodAffinity | None = None
    """Pods to be near."""
    pod_anti_affinity: PodAffinity | None = None
    """Pods to be apart from."""


class TopologySpread(Part):
    """Spreads pods over places; without a selector, the pods of the same role and pool."""

    max_skew: Annotated[int, Field(ge=1, le=1000)] = 1
    """By how many pods two places may differ."""
    topology_key: LabelKey
    """The node label whose equal values are one place."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"
    """Whether a pod that would break this waits."""
    label_selector: LabelSelector | None = None
    """Which pods count."""


class Reference(Part):
    """Names an object in the cluster's namespace."""

    name: ObjectName
    """Its name."""


class SecretKey(Part):
    """Names one entry of a Secret in the cluster's namespace."""

    name: ObjectName
    """The Secret."""
    key: DataKey = "token"
    """The entry."""


PriorityClass = Annotated[str, StringConstraints(min_length=1, max_length=253)]
