"""The operator's own metrics, every name and label once."""

from __future__ import annotations

import contextlib

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]


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
            "When the last reconcile ended, or a heartbeat in its place, in Unix seconds.",
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
        self.rebalance_decisions = Counter(
            "goodspeed_operator_rebalance_decisions",
            "Decisions of rebalancing, holds included, once an interval.",
            ["action", "reason"],
            registry=self.registry,
        )
        self.rebalance_errors = Counter(
            "goodspeed_operator_rebalance_errors",
            "Intervals in which rebalancing itself failed.",
            registry=self.registry,
        )
        self.rebalance_seconds = Histogram(
            "goodspeed_operator_rebalance_seconds",
            "Seconds to observe, decide and give orders, once an interval.",
            buckets=(0.01, 0.05, 0.2, 1, 5, 20),
            registry=self.registry,
        )
        self.metrics_available = Gauge(
            "goodspeed_operator_metrics_available",
            "1 while a cluster's metrics are there, fresh and sound.",
            ["namespace", "cluster"],
            registry=self.registry,
        )
        self.expected_gain = Gauge(
            "goodspeed_operator_rebalance_expected_gain",
            "Utility that the last changes should bring.",
            ["namespace", "cluster"],
            registry=self.registry,
        )
        self.actual_gain = Gauge(
            "goodspeed_operator_rebalance_actual_gain",
            "Utility that the drafters concerned had more of two intervals after the last changes.",
            ["namespace", "cluster"],
            registry=self.registry,
        )
        self.leading = Gauge(
            "goodspeed_operator_leading", "1 while this replica holds the lease.", registry=self.registry
        )

    def forget(self, namespace: str, cluster: str) -> None:
        """Ends the series of a cluster that is gone."""
        for gauge in (self.metrics_available, self.expected_gain, self.actual_gain):
            with contextlib.suppress(KeyError):
                gauge.remove(namespace, cluster)
