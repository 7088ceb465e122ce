"""The operator in a real API server, with its own account: what should be there is, and comes back."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from clusters import Clusters, essence, eventually
from control_plane import ControlPlane
from operator_process import OperatorProcess

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator", "hollow")]

RESTORED_SECONDS = 10.0


@pytest.fixture
def fleet(controllers: ControlPlane, namespace: str) -> Clusters:
    """A ready cluster of one verifier and two pools."""
    clusters = Clusters(controllers, namespace)
    clusters.apply()
    clusters.ready()
    return clusters


def test_a_cluster_gets_all_its_children_and_says_when_it_is_ready(fleet: Clusters) -> None:
    assert sorted(fleet.children()) == sorted(
        [
            ("serviceaccount", "fleet-verifier"),
            ("serviceaccount", "fleet-drafters"),
            ("networkpolicy", "fleet-verifier"),
            ("networkpolicy", "fleet-drafters"),
            ("poddisruptionbudget", "fleet-verifier"),
            ("poddisruptionbudget", "fleet-one"),
            ("poddisruptionbudget", "fleet-lookup"),
            ("service", "fleet-verifier"),
            ("service", "fleet-drafters"),
            ("service", "fleet-one"),
            ("service", "fleet-lookup"),
            ("configmap", "fleet-verifier-e39188"),
            ("configmap", "fleet-one"),
            ("configmap", "fleet-lookup"),
            ("statefulset", "fleet-verifier-e39188"),
            ("deployment", "fleet-one"),
            ("deployment", "fleet-lookup"),
        ]
    )
    body = fleet.get("gsc", "fleet")
    assert "finalizers" not in body["metadata"]
    assert "annotations" not in body["metadata"]
    status = body["status"]
    assert status["observedGeneration"] == body["metadata"]["generation"]
    assert (status["verifiers"]["summary"], status["drafters"]["summary"]) == ("1/1", "3/3")
    assert [pool["cells"] for pool in status["pools"]] == [[0], [0]]
    for child in fleet.children().values():
        owner = child["metadata"]["ownerReferences"]
        assert [(each["kind"], each["uid"]) for each in owner] == [
            ("GoodSpeedCluster", body["metadata"]["uid"])
        ]
        managers = (
            {
                entry["manager"]
                for entry in child["metadata"]["managedFields"] or ()
                if not entry.get("subresource")
            }
            if "managedFields" in child["metadata"]
            else {"goodspeed-operator"}
        )
        assert "goodspeed-operator" in managers


def test_events_tell_what_a_person_wants_to_know(fleet: Clusters) -> None:
    def told() -> list[str]:
        events = fleet.plane.get("-n", fleet.namespace, "events")["items"]
        return [event["reason"] for event in events if event["involvedObject"]["name"] == "fleet"]

    assert eventually(lambda: {"Starting", "AllReady"} <= set(told()))
    assert not {"NotReady"} & set(told())
    assert "AllReady" in fleet.kubectl("describe", "gsc", "fleet")


def test_every_child_that_is_deleted_comes_back_in_ten_seconds(
    fleet: Clusters, record_property: Callable[[str, object], None]
) -> None:
    before = fleet.children()
    slowest = 0.0
    for (kind, name), child in before.items():
        fleet.kubectl("delete", kind, name, "--wait=false", "--cascade=background")
        began = time.monotonic()

        def back(kind: str = kind, name: str = name, uid: str = child["metadata"]["uid"]) -> bool:
            found = fleet.children().get((kind, name))
            return found is not None and found["metadata"]["uid"] != uid

        eventually(back, RESTORED_SECONDS)
        slowest = max(slowest, time.monotonic() - began)
    after = fleet.children()
    assert {key: essence(child) for key, child in after.items()} == {
        key: essence(child) for key, child in before.items()
    }
    fleet.ready()
    record_property("slowest_seconds", slowest)


EDITS: list[tuple[str, str, Any]] = [
    ("configmap", "fleet-one", {"data": {"GOODSPEED_WEIGHT": "99"}}),
    ("configmap", "fleet-one", {"data": {"GOODSPEED_WEIGHT": None}}),
    ("configmap", "fleet-one", {"data": {"GOODSPEED_SURPRISE": "1"}}),
    ("configmap", "fleet-one", {"metadata": {"labels": {"goodspeed.io/cluster": None}}}),
    ("configmap", "fleet-one", {"metadata": {"ownerReferences": None}}),
    ("service", "fleet-drafters", {"spec": {"selector": {"app": "other"}}}),
    ("service", "fleet-one", {"spec": {"ports": [{"name": "http", "port": 9000, "targetPort": 1}]}}),
    ("serviceaccount", "fleet-verifier", {"automountServiceAccountToken": True}),
    ("networkpolicy", "fleet-verifier", {"spec": {"ingress": [{}]}}),
    ("networkpolicy", "fleet-drafters", {"spec": {"egress": [{}], "policyTypes": ["Ingress", "Egress"]}}),
    ("poddisruptionbudget", "fleet-one", {"spec": {"maxUnavailable": 5}}),
    ("deployment", "fleet-one", {"spec": {"replicas": 4}}),
    ("deployment", "fleet-one", {"spec": {"paused": True}}),
    ("deployment", "fleet-one", {"spec": {"template": {"spec": {"hostNetwork": True}}}}),
    ("deployment", "fleet-one", {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}),
    ("statefulset", "fleet-verifier-e39188", {"spec": {"replicas": 0}}),
    ("statefulset", "fleet-verifier-e39188", {"spec": {"updateStrategy": {"type": "OnDelete"}}}),
    ("statefulset", "fleet-verifier-e39188", {"metadata": {"annotations": {"goodspeed.io/serves": "{}"}}}),
]
STRATEGIC_EDITS: list[tuple[str, str, Any]] = [
    ("service", "fleet-one", {"spec": {"ports": [{"name": "extra", "port": 22, "targetPort": 22}]}}),
    *(
        (kind, name, {"spec": {"template": {"spec": {"containers": [{"name": container, **change}]}}}})
        for kind, name, container in (
            ("deployment", "fleet-one", "drafter"),
            ("statefulset", "fleet-verifier-e39188", "verifier"),
        )
        for change in (
            {"image": "example.org/other:1"},
            {"env": [{"name": "GOODSPEED_SURPRISE", "value": "1"}]},
            {"command": ["sleep", "1d"]},
            {"resources": {"limits": {"cpu": "7"}}},
        )
    ),
    (
        "deployment",
        "fleet-one",
        {"spec": {"template": {"spec": {"containers": [{"name": "miner", "image": "example.org/miner"}]}}}},
    ),
]


def test_every_edit_by_hand_is_undone_in_ten_seconds(
    fleet: Clusters, record_property: Callable[[str, object], None]
) -> None:
    slowest = 0.0
    edits = [(*edit, "merge") for edit in EDITS] + [(*edit, "strategic") for edit in STRATEGIC_EDITS]
    before = {key: essence(child) for key, child in fleet.children().items()}
    for kind, name, patch, form in edits:
        fleet.patch(kind, name, patch, form)
        began = time.monotonic()

        def undone(kind: str = kind, name: str = name) -> bool:
            found = fleet.children().get((kind, name))
            return found is not None and essence(found) == before[kind, name]

        try:
            eventually(undone, RESTORED_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{kind} {name} after {patch}: {fleet.get(kind, name)}") from error
        slowest = max(slowest, time.monotonic() - began)
    fleet.ready()
    record_property("slowest_seconds", slowest)


def test_a_namespace_with_restricted_pod_security_takes_every_pod(
    controllers: ControlPlane, namespace: str
) -> None:
    fleet = Clusters(controllers, namespace)
    fleet.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    fleet.apply()
    fleet.ready()
    assert len(fleet.pods()) == 4


def test_restarting_a_pool_by_kubectl_is_left_alone(fleet: Clusters) -> None:
    before = fleet.pods()
    fleet.kubectl("rollout", "restart", "deployment/fleet-one")
    fleet.kubectl("rollout", "status", "deployment/fleet-one", "--timeout=30s")
    fleet.kubectl("annotate", "deployment", "fleet-one", "example.org/note=kept")
    time.sleep(2)
    template = fleet.get("deployment", "fleet-one")["spec"]["template"]
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]
    assert fleet.get("deployment", "fleet-one")["metadata"]["annotations"]["example.org/note"] == "kept"
    assert not {uid for name, uid in before.items() if "-one-" in name} & set(fleet.pods().values())


def test_what_the_spec_no_longer_asks_for_is_deleted(fleet: Clusters) -> None:
    fleet.apply(
        drafters=[{"name": "lookup", "model": "ngram://", "replicas": 2}],
        networkPolicy={"enabled": False},
        podDisruptionBudget={"enabled": False},
    )
    eventually(
        lambda: (
            not {key for key in fleet.children() if key[1] == "fleet-one"}
            and not fleet.list("networkpolicies")
            and not fleet.list("poddisruptionbudgets")
        )
    )
    fleet.ready()
    assert fleet.get("gsc", "fleet")["status"]["drafters"]["summary"] == "2/2"
    fleet.apply()
    fleet.ready()
    assert len(fleet.children()) == 17


def test_an_object_of_someone_elses_is_neither_overwritten_nor_deleted(
    controllers: ControlPlane, namespace: str
) -> None:
    fleet = Clusters(controllers, namespace)
    fleet.kubectl("create", "configmap", "fleet-one", "--from-literal=mine=yes")
    fleet.apply()
    condition = eventually(
        lambda: (found := fleet.condition("Degraded")).get("reason") == "NameTaken" and found
    )
    assert "ConfigMap fleet-one: exists and belongs to someone else" in condition["message"]
    assert fleet.get("configmap", "fleet-one")["data"] == {"mine": "yes"}
    fleet.kubectl("delete", "gsc", "fleet")
    eventually(lambda: not fleet.children())
    assert fleet.get("configmap", "fleet-one")["data"] == {"mine": "yes"}


def test_deleting_the_cluster_deletes_all_of_it_without_the_operator_having_to_be_there(
    fleet: Clusters,
) -> None:
    fleet.kubectl("delete", "gsc", "fleet", "--timeout=5s")
    eventually(lambda: not fleet.children() and not fleet.list("pods"), 60)


def test_a_cluster_made_again_at_once_under_the_same_name_is_whole(fleet: Clusters) -> None:
    old = fleet.get("gsc", "fleet")["metadata"]["uid"]
    fleet.kubectl("delete", "gsc", "fleet")
    fleet.apply()
    new = fleet.get("gsc", "fleet")["metadata"]["uid"]
    assert new != old

    def whole() -> bool:
        children = fleet.children()
        owners = {child["metadata"]["ownerReferences"][0]["uid"] for child in children.values()}
        return len(children) == 17 and owners == {new}

    eventually(whole, 90)
    fleet.ready(seconds=90)


def test_the_scale_subresource_is_the_number_of_verifiers(fleet: Clusters) -> None:
    fleet.kubectl("scale", "gsc/fleet", "--replicas=3")
    fleet.ready()
    assert fleet.get("statefulset", "fleet-verifier-e39188")["status"]["readyReplicas"] == 3
    path = f"/apis/goodspeed.io/v1alpha1/namespaces/{fleet.namespace}/goodspeedclusters/fleet/scale"
    scale = json.loads(fleet.plane.kubectl("get", "--raw", path).stdout)
    assert scale["status"]["replicas"] == 3
    selected = fleet.list("pods", scale["status"]["selector"])
    assert {pod["metadata"]["name"] for pod in selected} == {f"fleet-verifier-e39188-{n}" for n in range(3)}
    fleet.kubectl("scale", "gsc/fleet", "--replicas=0")
    assert eventually(lambda: fleet.condition("Ready").get("reason") == "Resting")


EXTERNAL = [
    {"name": "one", "model": "builtin://smollm2-135m-draft-1l", "replicas": 1},
    {"name": "lookup", "model": "ngram://", "replicas": 2, "scaling": "External"},
]


def test_a_pool_that_others_scale_keeps_their_number(fleet: Clusters) -> None:
    fleet.apply(drafters=EXTERNAL)
    fleet.ready()
    assert fleet.get("deployment", "fleet-lookup")["spec"]["replicas"] == 2  # as it was, not Kubernetes' 1
    fleet.kubectl("scale", "deployment/fleet-lookup", "--replicas=5")
    fleet.kubectl("scale", "deployment/fleet-one", "--replicas=5")
    eventually(lambda: fleet.get("deployment", "fleet-one")["spec"]["replicas"] == 1, RESTORED_SECONDS)
    fleet.apply(drafters=[EXTERNAL[0], {**EXTERNAL[1], "maxDraftTokens": 3}])
    fleet.ready()
    assert fleet.get("deployment", "fleet-lookup")["spec"]["replicas"] == 5
    fleet.patch("deployment", "fleet-lookup", {"spec": {"replicas": 3}})
    fleet.patch("deployment", "fleet-lookup", {"spec": {"paused": True}})
    eventually(lambda: "paused" not in fleet.get("deployment", "fleet-lookup")["spec"], RESTORED_SECONDS)
    assert fleet.get("deployment", "fleet-lookup")["spec"]["replicas"] == 3
    fleet.apply()
    eventually(lambda: fleet.get("deployment", "fleet-lookup")["spec"]["replicas"] == 2)


def test_a_new_pool_that_others_scale_starts_with_one(controllers: ControlPlane, namespace: str) -> None:
    fleet = Clusters(controllers, namespace)
    fleet.apply(drafters=EXTERNAL)
    fleet.ready()
    assert fleet.get("deployment", "fleet-lookup")["spec"]["replicas"] == 1


def test_a_spec_that_only_python_can_reckon_out_is_explained_in_a_condition(
    controllers: ControlPlane, namespace: str
) -> None:
    fleet = Clusters(controllers, namespace)
    fleet.apply(verifier={"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1500M"}}})
    condition = eventually(lambda: (found := fleet.condition("Ready")) and found)
    assert (condition["status"], condition["reason"]) == ("False", "SpecInvalid")
    assert "spec.verifier.resources.requests" in condition["message"]
    assert "requests must not exceed limits" in condition["message"]
    fleet.apply()
    fleet.ready()
    assert fleet.condition("Degraded")["reason"] == "AsExpected"


def test_at_rest_nothing_is_asked_of_the_api_for_a_cluster(
    fleet: Clusters, operator: OperatorProcess
) -> None:
    eventually(lambda: "Terminating" not in fleet.plane.kubectl("get", "namespaces").stdout, 90)
    time.sleep(40)  # the first look at the metrics, which are not there, is news
    position, before = fleet.plane.audit_position(), operator.metric("goodspeed_operator_api_requests_total")
    time.sleep(10)
    user = "system:serviceaccount:goodspeed-system:goodspeed"
    asked = [
        (event["verb"], event["objectRef"]["resource"])
        for event in fleet.plane.audited(user, since=position)
        if event.get("objectRef", {}).get("namespace") == fleet.namespace
    ]
    assert asked == []
    elsewhere = Counter(
        (event["verb"], event["objectRef"]["resource"], event["objectRef"].get("namespace"))
        for event in fleet.plane.audited(user, since=position)
        if event["objectRef"]["resource"] != "leases" and event["verb"] != "watch"
    )
    lists = sum(count for (verb, _, _), count in elsewhere.items() if verb == "list")
    assert lists == elsewhere.total(), elsewhere  # watches begin anew every five minutes
    assert operator.metric("goodspeed_operator_api_requests_total") - before - lists <= 14  # the lease alone
