"""The Kubernetes kinds the operator touches, and where the API serves them.

A closed table instead of discovery: the operator may touch nothing else, which
is also what its RBAC says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One namespaced kind: where the API serves it, and whether its API may be absent."""

    api_version: str
    kind: str
    plural: str
    optional: bool = False

    @property
    def group(self) -> str:
        """The API group, empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version inside the group."""
        return self.api_version.rpartition("/")[2]

    @property
    def root(self) -> str:
        """The URL path of the API's version."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"

    def path(self, namespace: str, name: str = "") -> str:
        """The URL path of the collection, of all namespaces when ``namespace`` is empty, or of one object."""
        inside = f"/namespaces/{namespace}" if namespace else ""
        path = f"{self.root}{inside}/{self.plural}"
        return f"{path}/{name}" if name else path


CLUSTER = Kind("goodspeed.io/v1alpha1", "GoodSpeedCluster", "goodspeedclusters")

CHILDREN = (
    Kind("v1", "ServiceAccount", "serviceaccounts"),
    Kind("v1", "ConfigMap", "configmaps"),
    Kind("v1", "Service", "services"),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("apps/v1", "StatefulSet", "statefulsets"),
    Kind("apps/v1", "Deployment", "deployments"),
    Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors", optional=True),
)
POD = Kind("v1", "Pod", "pods")

_BY_NAME = {(kind.api_version, kind.kind): kind for kind in (CLUSTER, POD, *CHILDREN)}


def kind_of(manifest: Manifest) -> Kind:
    """The kind of a manifest.

    Raises:
        KeyError: the operator does not manage that kind.
    """
    return _BY_NAME[manifest["apiVersion"], manifest["kind"]]
