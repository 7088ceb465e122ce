"""GoodSpeedCluster v1alpha1: a fleet in one resource."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from goodspeed_operator.api.control import Rebalance, Scheduler
from goodspeed_operator.api.drafters import DrafterPool
from goodspeed_operator.api.network import DisruptionBudgets, Monitoring, NetworkPolicies
from goodspeed_operator.api.part import Checked, Part, Rule
from goodspeed_operator.api.placement import Reference
from goodspeed_operator.api.scalars import Image
from goodspeed_operator.api.status import Status
from goodspeed_operator.api.target import HuggingFace, ModelCache, Target
from goodspeed_operator.api.tenants import Tenants
from goodspeed_operator.api.verifier import Verifier

GROUP = "goodspeed.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "GoodSpeedCluster"

LONGEST_CLUSTER_NAME = 36
"""A StatefulSet's name plus its revision hash must fit a label's 63 characters, and so must pool names."""


def _no_twice(pools: list[DrafterPool]) -> bool:
    return len({pool.name for pool in pools}) == len(pools)


def _fewest_gpus(spec: Spec) -> int:
    pools = sum(pool.fewest * pool.resources.gpus for pool in spec.drafters if pool.scaling != "External")
    return spec.verifier.replicas * spec.verifier.resources.gpus + pools


class Spec(Part):
    """What the fleet should be."""

    rules = (
        Rule(
            # A mapped list has no bound that the API server could cost, so it looks at each pool alone.
            "!has(self.rebalance.caps.drafters) || self.drafters.all(d, d.scaling == 'External' || "
            "(has(d.minReplicas) ? d.minReplicas : d.replicas) <= self.rebalance.caps.drafters)",
            "rebalance.caps.drafters is below the fewest drafters the pools may have; raise it or lower "
            "replicas or minReplicas",
            lambda spec: (
                spec.rebalance.caps.drafters is None
                or sum(pool.fewest for pool in spec.drafters if pool.scaling != "External")
                <= spec.rebalance.caps.drafters
            ),
            "rebalance.caps.drafters",
        ),
        Rule(
            # Quantities cost the API server too much to add up.
            "",
            "rebalance.caps.gpus is below the fewest GPUs the fleet may have; raise it, or lower "
            "verifier.replicas, replicas or minReplicas",
            lambda spec: spec.rebalance.caps.gpus is None or _fewest_gpus(spec) <= spec.rebalance.caps.gpus,
            "rebalance.caps.gpus",
        ),
    )

    target: Target
    """The model whose distribution every answer has."""
    verifier: Verifier = Field(default=Verifier())
    """The cells."""
    drafters: Annotated[
        list[DrafterPool],
        Checked(Rule("", "names of drafters must be unique; rename one of the pools", _no_twice)),
        Field(min_length=1, max_length=32, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]}),
    ]
    """The pools."""
    tenants: Tenants = Field(default=[])
    """Who asks; without any, each drafter counts as one."""
    scheduler: Scheduler = Field(default=Scheduler())
    """How a verifier shares its budget."""
    rebalance: Rebalance = Field(default=Rebalance())
    """How the operator moves drafters and sizes pools."""
    image: Image | None = None
    """Image of verifiers and drafters; without one, the operator's own version."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When images are pulled; without one, as Kubernetes does by tag."""
    image_pull_secrets: Annotated[
        list[Reference], Field(max_length=8, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]})
    ] = Field(default=[])
    """Secrets to pull images with."""
    model_cache: ModelCache = Field(default=ModelCache())
    """Where models are kept once they are fetched."""
    hugging_face: HuggingFace = Field(default=HuggingFace())
    """Access to the Hugging Face hub."""
    network_policy: NetworkPolicies = Field(default=NetworkPolicies())
    """Who may reach the fleet."""
    pod_disruption_budget: DisruptionBudgets = Field(default=DisruptionBudgets())
    """Limits on voluntary disruptions."""
    monitoring: Monitoring = Field(default=Monitoring())
    """Scraping by the Prometheus operator."""


class Metadata(Part):
    """The part of an object's metadata that is ours to read; the API server's own fields pass through."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    namespace: Annotated[str, StringConstraints(max_length=63)] = "default"
    labels: dict[str, str] = Field(default={})
    annotations: dict[str, str] = Field(default={})
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: Any = None
    deletion_timestamp: Any = None
    deletion_grace_period_seconds: Any = None
    finalizers: list[str] = Field(default=[])
    owner_references: list[Any] = Field(default=[])
    managed_fields: list[Any] = Field(default=[])
    generate_name: str = ""
    self_link: str = ""


class GoodSpeedCluster(Part):
    """A fleet for distributed speculative decoding: verifiers with the target model, pools of drafters."""

    rules = (
        Rule(
            f"size(self.metadata.name) <= {LONGEST_CLUSTER_NAME} && "
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            f"metadata.name must be at most {LONGEST_CLUSTER_NAME} characters: lower-case letters, digits "
            "and '-', from a letter to a letter or digit",
            lambda cluster: (
                len(cluster.metadata.name) <= LONGEST_CLUSTER_NAME
                and re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", cluster.metadata.name) is not None
            ),
            "metadata.name",
        ),
    )

    api_version: Literal["goodspeed.io/v1alpha1"]
    kind: Literal["GoodSpeedCluster"]
    metadata: Metadata
    spec: Spec
    """What the fleet should be."""
    status: Status = Field(default=Status())
    """What it is."""

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """The cluster's namespace."""
        return self.metadata.namespace
