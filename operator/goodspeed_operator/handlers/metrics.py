"""The operator's own metrics, every name and label once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class OperatorMetrics:
    """Counters and gauges of one operator process, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.reconcile_total = Counter(
            "goodspeed_operator_reconcile",
            "Reconciles, by how they ended.",
            ["result"],
            registry=self.registry,
        )
        self.reconcile_errors_total = Counter(
            "goodspeed_operator_reconcile_errors",
            "Reconciles that failed, by the kind of failure.",
            ["reason"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "goodspeed_operator_reconcile_seconds",
            "Seconds one reconcile took.",
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10),
            registry=self.registry,
        )
        self.last_reconcile = Gauge(
            "goodspeed_operator_last_reconcile_timestamp_seconds",
            "When the last reconcile ended, in Unix seconds.",
            registry=self.registry,
        )
        self.api_requests_total = Counter(
            "goodspeed_operator_api_requests",
            "Requests to the Kubernetes API, watches aside.",
            registry=self.registry,
        )
        self.clusters = Gauge(
            "goodspeed_operator_clusters", "GoodSpeedClusters there are.", registry=self.registry
        )
        self.queue_length = Gauge(
            "goodspeed_operator_queue_length", "Clusters that wait for a reconcile.", registry=self.registry
        )
        self.leading = Gauge(
            "goodspeed_operator_leading", "1 while this replica holds the lease.", registry=self.registry
        )
