"""The operator under its own account: it is refused nothing, and may do nothing that it never does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from clusters import NEW, Clusters, eventually, pools
from control_plane import ControlPlane
from operator_process import OperatorProcess

from conftest import SYSTEM, chart

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("pod_monitors", "operator", "hollow")]

USER = f"system:serviceaccount:{SYSTEM}:goodspeed"
Rights = set[tuple[str, str, str]]

POD_MONITORS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podmonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {"kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}


@pytest.fixture(scope="module")
def pod_monitors(controllers: ControlPlane) -> Iterator[None]:
    """The API of the Prometheus operator, as far as this operator uses it."""
    name = POD_MONITORS["metadata"]["name"]  # type: ignore[index]
    controllers.apply(POD_MONITORS)
    controllers.until_established(name)
    yield
    controllers.kubectl("delete", "crd", name)


@pytest.fixture(scope="module")
def operator(pod_monitors: None, operator: OperatorProcess) -> OperatorProcess:
    """Started when that API is there."""
    return operator


@pytest.fixture
def fleet(controllers: ControlPlane, namespace: str) -> Clusters:
    clusters = Clusters(controllers, namespace)
    clusters.apply()
    clusters.ready()
    return clusters


def used(plane: ControlPlane) -> Iterator[tuple[tuple[str, str, str], str]]:
    """(group, resource, verb) of every request, and what its rights were found to be.

    An apply that makes the object needs the right to create, too.
    """
    for event in plane.audited(USER):
        if resource := event.get("objectRef", {}).get("resource"):
            reference = event["objectRef"]
            subresource = f"/{reference['subresource']}" if "subresource" in reference else ""
            decision = event["annotations"]["authorization.k8s.io/decision"]
            yield (reference.get("apiGroup", ""), resource + subresource, event["verb"]), decision
            if event["verb"] == "patch" and event["responseStatus"]["code"] == 201:
                yield (reference.get("apiGroup", ""), resource + subresource, "create"), decision


def granted() -> Rights:
    """What the roles bound to the operator's account allow."""
    objects = chart()
    bound = {
        found["roleRef"]["name"]
        for found in objects
        if found["kind"] in {"RoleBinding", "ClusterRoleBinding"}
        and any(subject["name"] == "goodspeed" for subject in found["subjects"])
    }
    return {
        (group, resource, verb)
        for role in objects
        if role["kind"] in {"Role", "ClusterRole"} and role["metadata"]["name"] in bound
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def stray(child: dict[str, Any]) -> dict[str, Any]:
    """A copy that no spec asks for."""
    metadata = {key: child["metadata"][key] for key in ("namespace", "labels", "ownerReferences")}
    copied = {key: value for key, value in child.items() if key != "status"}
    if child["kind"] == "Service":
        copied["spec"] = {key: value for key, value in child["spec"].items() if not key.startswith("cluster")}
    return {**copied, "metadata": {**metadata, "name": f"{child['metadata']['name']}-stray"}}


def test_where_the_api_of_pod_monitors_is_each_cluster_has_one(fleet: Clusters) -> None:
    monitor = fleet.get("podmonitor", "fleet")
    assert monitor["spec"]["selector"] == {"matchLabels": {"goodspeed.io/cluster": "fleet"}}
    assert monitor["metadata"]["ownerReferences"][0]["uid"] == fleet.get("gsc", "fleet")["metadata"]["uid"]
    fleet.apply(monitoring={"podMonitor": False})
    eventually(lambda: not fleet.list("podmonitors"))


def test_the_operator_uses_every_right_it_has_and_is_refused_nothing(fleet: Clusters) -> None:
    fleet.patch("deployment", "fleet-one", {"spec": {"paused": True}})
    eventually(lambda: "paused" not in fleet.get("deployment", "fleet-one")["spec"])
    strays = [stray(child) for child in [*fleet.children().values(), *fleet.list("podmonitors")]]
    fleet.plane.apply(*strays)
    eventually(lambda: not [name for _, name in fleet.children() if name.endswith("-stray")])
    fleet.apply(
        drafters=[pools()[0], {**pools()[1], "scaling": "External"}],
        verifier={"priorityClassName": "there-is-none"},
        target=NEW,
    )
    eventually(lambda: fleet.condition("Degraded").get("reason") == "PodRefused", 60)
    asked = list(used(fleet.plane))
    assert {right for right, decision in asked if decision != "allow"} == set()
    exercised = {right for right, _ in asked}
    assert sorted(exercised - granted()) == []
    assert sorted(granted() - exercised) == []
