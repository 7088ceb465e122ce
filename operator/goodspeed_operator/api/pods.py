"""What verifiers and drafters have in common: the pods they run in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from goodspeed_operator.api.part import Part
from goodspeed_operator.api.placement import (
    Affinity,
    PriorityClass,
    Resources,
    Toleration,
    TopologySpread,
)
from goodspeed_operator.api.scalars import Image, Labels

PodTemplate = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]


class Pods(Part):
    """The pods of one role."""

    image: Image | None = None
    """Image of the server; without one, spec.image."""
    resources: Resources = Field(default=Resources())
    """Requests and limits of the server's container."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the model runs on; auto takes CUDA where the pod has it."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of the model; without a number, the CPU limit, or all there are."""
    node_selector: Labels = Field(default={})
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default=[])
    """Taints that the pods accept."""
    affinity: Affinity | None = None
    """What the pods are drawn to and kept from."""
    topology_spread_constraints: Annotated[list[TopologySpread], Field(max_length=8)] = Field(default=[])
    """How the pods are spread over zones and nodes."""
    priority_class_name: PriorityClass | None = None
    """Priority of the pods."""
    startup_seconds: Annotated[int, Field(ge=10, le=86_400)] = 1800
    """How long loading the model may take, in seconds."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """How long a stopping pod finishes what it has begun, in seconds."""
    pod_template: PodTemplate = Field(default={})
    """Anything else of a pod template (metadata, spec); merged over ours, lists of named things by name."""
