"""The quickstart with other settings, and what is looked for in its manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.loading import parse_cluster
from goodspeed_operator.resources.assignments import Assignments
from goodspeed_operator.resources.fleet import desired

Manifest = dict[str, Any]
EXAMPLES = Path(__file__).parents[3] / "examples"
QUICKSTART = EXAMPLES / "quickstart.yaml"


def quickstart(**spec: Any) -> GoodSpeedCluster:
    resource = yaml.safe_load(QUICKSTART.read_text())
    resource["metadata"] |= {"uid": "u-1", "namespace": "serving"}
    resource["spec"] |= spec
    return parse_cluster(resource)


def workloads(manifests: list[Manifest]) -> Iterator[Manifest]:
    return (each for each in manifests if each["kind"] in {"StatefulSet", "Deployment"})


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    return next(each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name))


def pod_of(cluster: GoodSpeedCluster, name: str, assignments: Assignments | None = None) -> Manifest:
    manifests = desired(cluster, assignments)
    return next(each for each in workloads(manifests) if each["metadata"]["name"] == name)["spec"]["template"]
