"""Turns workloads into the pods a cluster's controllers would make of them.

A cluster has a StatefulSet controller and a Deployment controller; one machine
has this function. What it returns are pod manifests as an API server would
hold them, so that whatever runs them need not know where they came from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

Manifest = dict[str, Any]

WORKLOADS = frozenset({"StatefulSet", "Deployment"})


def expand(manifests: Iterable[Mapping[str, Any]]) -> list[Manifest]:
    """The pods of every StatefulSet and Deployment, in the order given, then by ordinal.

    A Deployment's pods get ordinals too: on one machine, stable names are worth
    more than the random ones of a ReplicaSet.
    """
    return [
        _pod(workload, ordinal)
        for workload in manifests
        if workload["kind"] in WORKLOADS
        for ordinal in range(_replicas(workload))
    ]


def _replicas(workload: Mapping[str, Any]) -> int:
    replicas = workload["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def _pod(workload: Mapping[str, Any], ordinal: int) -> Manifest:
    template = copy.deepcopy(dict(workload["spec"]["template"]))
    start = int(workload["spec"].get("ordinals", {}).get("start", 0))
    name = f"{workload['metadata']['name']}-{start + ordinal}"
    metadata = dict(template.get("metadata") or {})
    metadata["name"] = name
    metadata["namespace"] = workload["metadata"].get("namespace", "default")
    labels = metadata.setdefault("labels", {})
    spec = dict(template["spec"])
    if workload["kind"] == "StatefulSet":
        labels["statefulset.kubernetes.io/pod-name"] = name
        labels["apps.kubernetes.io/pod-index"] = str(start + ordinal)
        spec.setdefault("hostname", name)
        spec.setdefault("subdomain", workload["spec"].get("serviceName", ""))
        spec["volumes"] = [*spec.get("volumes", []), *_claimed(workload, name)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _claimed(workload: Mapping[str, Any], pod: str) -> list[Manifest]:
    return [
        {
            "name": claim["metadata"]["name"],
            "persistentVolumeClaim": {"claimName": f"{claim['metadata']['name']}-{pod}"},
        }
        for claim in workload["spec"].get("volumeClaimTemplates", [])
    ]
