"""What surrounds the workloads: accounts, network policies, disruption budgets and the PodMonitor."""

from __future__ import annotations

from typing import Any

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.network import Peer
from goodspeed_operator.resources.naming import (
    CLUSTER_LABEL,
    DRAFTER,
    VERIFIER,
    Manifest,
    drafters_name,
    manifest,
    pool_name,
    selector,
    verifiers_name,
)

OPERATOR_PEER: Manifest = {
    "namespaceSelector": {},
    # A label of our own: the chart's values may change all others.
    "podSelector": {"matchLabels": {"goodspeed.io/operator": "true"}},
}


def service_accounts(cluster: GoodSpeedCluster) -> list[Manifest]:
    """One account per role, without a token: the servers never talk to the Kubernetes API."""
    return [
        {**manifest(cluster, "v1", "ServiceAccount", name, component), "automountServiceAccountToken": False}
        for name, component in ((verifiers_name(cluster), VERIFIER), (drafters_name(cluster), DRAFTER))
    ]


def disruption_budgets(cluster: GoodSpeedCluster) -> list[Manifest]:
    """One for the verifiers, and one per pool."""
    settings = cluster.spec.pod_disruption_budget
    if not settings.enabled:
        return []
    limit = int(settings.max_unavailable) if settings.max_unavailable.isdigit() else settings.max_unavailable

    def budget(name: str, component: str, **labelled: str) -> Manifest:
        head = manifest(cluster, "policy/v1", "PodDisruptionBudget", name, component, **labelled)
        return {
            **head,
            "spec": {
                "maxUnavailable": limit,
                "selector": {"matchLabels": selector(cluster, component, **labelled)},
                # A pod that does not serve anyway must not keep its node from being drained.
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        }

    pools = [budget(pool_name(cluster, pool.name), DRAFTER, pool=pool.name) for pool in cluster.spec.drafters]
    return [budget(verifiers_name(cluster), VERIFIER), *pools]


def network_policies(cluster: GoodSpeedCluster) -> list[Manifest]:
    """Drafters reach verifiers, clients reach drafters, metrics readers metrics; nothing else comes in."""
    settings = cluster.spec.network_policy
    if not settings.enabled:
        return []
    drafters = {"podSelector": {"matchLabels": selector(cluster, DRAFTER)}}
    readers = [OPERATOR_PEER, *(_peer(peer) for peer in settings.metrics_readers)]
    clients = [_peer(peer) for peer in settings.clients]

    def policy(name: str, component: str, *rules: tuple[str, list[Manifest]]) -> Manifest:
        head = manifest(cluster, "networking.k8s.io/v1", "NetworkPolicy", name, component)
        return {
            **head,
            "spec": {
                "podSelector": {"matchLabels": selector(cluster, component)},
                "policyTypes": ["Ingress"],
                "ingress": [
                    {"from": peers, "ports": [{"port": port, "protocol": "TCP"}]} for port, peers in rules
                ],
            },
        }

    return [
        policy(verifiers_name(cluster), VERIFIER, ("grpc", [drafters]), ("http", readers)),
        policy(drafters_name(cluster), DRAFTER, ("http", [*clients, *readers])),
    ]


def _peer(peer: Peer) -> Manifest:
    plain: dict[str, Any] = peer.plain()
    return {name: {key: value for key, value in chosen.items() if value} for name, chosen in plain.items()}


def pod_monitor(cluster: GoodSpeedCluster) -> Manifest:
    """Asks the Prometheus operator to scrape every pod of the cluster."""
    settings = cluster.spec.monitoring
    head = manifest(cluster, "monitoring.coreos.com/v1", "PodMonitor", cluster.name, "monitor")
    head["metadata"]["labels"] = {**settings.labels, **head["metadata"]["labels"]}
    return {
        **head,
        "spec": {
            "selector": {"matchLabels": {CLUSTER_LABEL: cluster.name}},
            "podMetricsEndpoints": [
                {"port": "http", "path": "/metrics", "interval": settings.interval, "honorLabels": True}
            ],
        },
    }
