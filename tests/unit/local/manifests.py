"""A small cluster of two workloads, as the operator's resources would make it."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]


def workload(kind: str, name: str, replicas: int | None, container: Manifest, **spec: Any) -> Manifest:
    labels = {"app": name}
    body: Manifest = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": dict(labels)}, "spec": {"containers": [container]}},
        **spec,
    }
    if replicas is not None:
        body["replicas"] = replicas
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "demo"},
        "spec": body,
    }


def service(name: str, selects: str, namespace: str = "demo") -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": "None", "selector": {"app": selects}},
    }


def pod(container: Manifest, name: str = "one-0", **spec: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "demo", "labels": {"app": "one"}},
        "spec": {"containers": [container], **spec},
    }
