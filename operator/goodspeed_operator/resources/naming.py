"""Names and labels of everything a cluster is made of.

The longest name is bounded by the API types: a cluster's 36 characters and a
pool's 26 make 63 with the dash; a StatefulSet's name leaves room for the
eleven characters that its controller appends in a label.
"""

from __future__ import annotations

from typing import Any

from goodspeed_operator.api.cluster import API_VERSION, KIND, GoodSpeedCluster

Manifest = dict[str, Any]

GRPC_PORT = 50051
VERIFIER_HTTP_PORT = 8081
DRAFTER_HTTP_PORT = 8000

CLUSTER_LABEL = "goodspeed.io/cluster"
POOL_LABEL = "goodspeed.io/pool"
REVISION_LABEL = "goodspeed.io/revision"
COMPONENT_LABEL = "app.kubernetes.io/component"
VERIFIER = "verifier"
DRAFTER = "drafter"

CONFIG_HASH = "goodspeed.io/config-hash"
SERVES = "goodspeed.io/serves"


def verifiers_name(cluster: GoodSpeedCluster) -> str:
    """Of the headless Service, service account, policy and budget of all verifiers."""
    return f"{cluster.name}-verifier"


def cells_name(cluster: GoodSpeedCluster, revision: str) -> str:
    """Of the StatefulSet and ConfigMap of one target's cells."""
    return f"{cluster.name}-verifier-{revision}"


def cell_address(cluster: GoodSpeedCluster, revision: str, ordinal: int) -> str:
    """Stable ``host:port`` of a cell, as its drafters know it."""
    return f"{cells_name(cluster, revision)}-{ordinal}.{verifiers_name(cluster)}:{GRPC_PORT}"


def drafters_name(cluster: GoodSpeedCluster) -> str:
    """Of the entry Service, service account and policy of all drafters."""
    return f"{cluster.name}-drafters"


def pool_name(cluster: GoodSpeedCluster, pool: str) -> str:
    """Of the Deployment, Service, ConfigMap and budget of one pool."""
    return f"{cluster.name}-{pool}"


def selector(cluster: GoodSpeedCluster, component: str, **more: str) -> dict[str, str]:
    """The labels that choose a role's pods; ``pool`` or ``revision`` narrow it down."""
    return {
        CLUSTER_LABEL: cluster.name,
        COMPONENT_LABEL: component,
        **{f"goodspeed.io/{key}": value for key, value in more.items()},
    }


def labels(cluster: GoodSpeedCluster, component: str, **more: str) -> dict[str, str]:
    """All labels of an object."""
    return {
        "app.kubernetes.io/name": "goodspeed",
        "app.kubernetes.io/instance": cluster.name,
        "app.kubernetes.io/managed-by": "goodspeed-operator",
        **selector(cluster, component, **more),
    }


def manifest(
    cluster: GoodSpeedCluster,
    api_version: str,
    kind: str,
    name: str,
    component: str,
    **labelled: str,
) -> Manifest:
    """An object's head: type, name, labels, and its owner once the cluster has a uid.

    The owner does not block: garbage collection in the background is enough,
    and blocking would need a right on the cluster's finalizers.
    """
    metadata: Manifest = {
        "name": name,
        "namespace": cluster.namespace,
        "labels": labels(cluster, component, **labelled),
    }
    if cluster.metadata.uid:
        metadata["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": cluster.name,
                "uid": cluster.metadata.uid,
                "controller": True,
            }
        ]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
