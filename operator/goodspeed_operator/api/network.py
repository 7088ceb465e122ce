"""Who may reach the fleet, and what keeps it up through voluntary disruptions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from goodspeed_operator.api.part import Part, Rule
from goodspeed_operator.api.placement import LabelSelector
from goodspeed_operator.api.scalars import CountOrPercent, DurationText, Labels


class Peer(Part):
    """Pods that may connect: of the chosen namespaces, or of this one."""

    rules = (
        Rule(
            "has(self.podSelector) || has(self.namespaceSelector)",
            "a peer must have podSelector or namespaceSelector; write podSelector: {} for all pods of this "
            "namespace",
            lambda peer: peer.pod_selector is not None or peer.namespace_selector is not None,
        ),
    )

    pod_selector: LabelSelector | None = None
    """Which pods; without one, all."""
    namespace_selector: LabelSelector | None = None
    """Of which namespaces; without one, the cluster's own."""


_ALL = LabelSelector()
_PROMETHEUS = Peer(
    namespace_selector=_ALL,
    pod_selector=LabelSelector(match_labels={"app.kubernetes.io/name": "prometheus"}),
)


class NetworkPolicies(Part):
    """Ingress rules: drafters reach verifiers, clients reach drafters, metrics readers reach metrics."""

    enabled: bool = True
    """Makes NetworkPolicies; they need a network plugin that enforces them."""
    clients: Annotated[list[Peer], Field(max_length=16)] = Field(default=[Peer(pod_selector=_ALL)])
    """Who may send requests to drafters; by default all pods of the namespace."""
    metrics_readers: Annotated[list[Peer], Field(max_length=16)] = Field(default=[_PROMETHEUS])
    """Who may read metrics, besides the operator; by default pods named prometheus, anywhere."""


class DisruptionBudgets(Part):
    """Limits on voluntary disruptions such as node drains."""

    enabled: bool = True
    """Makes PodDisruptionBudgets for the verifiers and for each pool."""
    max_unavailable: CountOrPercent = "1"
    """How many pods of a role may be down at once."""


class Monitoring(Part):
    """Scraping by the Prometheus operator."""

    pod_monitor: bool = True
    """Makes a PodMonitor where that API exists."""
    interval: DurationText = "15s"
    """Time between two scrapes."""
    labels: Labels = Field(default={})
    """Labels of the PodMonitor, for a Prometheus that selects by them."""
