"""What the watches show, and the question that keeps the operator quiet at rest."""

from __future__ import annotations

import copy
from typing import Any

from goodspeed_operator.cluster.kinds import CHILDREN
from goodspeed_operator.handlers.observed import AppliedDigests, Child, Key, Observed, observe

DEPLOYMENT = next(kind for kind in CHILDREN if kind.kind == "Deployment")


def deployment(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "qs-one",
            "namespace": "models",
            "uid": "u1",
            "resourceVersion": "1",
            "labels": {"goodspeed.io/cluster": "qs"},
        },
        "spec": {"replicas": 1},
        "status": {"readyReplicas": 0},
    }
    body.update(changes)
    return body


def stamped(body: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    body = copy.deepcopy(body)
    body["metadata"].update(metadata)
    return body


def test_an_object_without_our_label_is_nobodys_child() -> None:
    body = deployment()
    del body["metadata"]["labels"]
    assert Observed().see_child(DEPLOYMENT, body, deleted=False) is None


def test_a_repeated_event_asks_for_no_reconcile() -> None:
    observed = Observed()
    assert observed.see_child(DEPLOYMENT, deployment(), deleted=False) == Key("models", "qs")
    again = stamped(deployment(), resourceVersion="2", managedFields=[{"manager": "x"}])
    assert observed.see_child(DEPLOYMENT, again, deleted=False) is None


def test_a_deleted_child_asks_for_a_reconcile_once() -> None:
    observed = Observed()
    observed.see_child(DEPLOYMENT, deployment(), deleted=False)
    assert observed.see_child(DEPLOYMENT, deployment(), deleted=True) == Key("models", "qs")
    assert observed.see_child(DEPLOYMENT, deployment(), deleted=True) is None


def test_a_change_of_status_is_no_drift_and_an_edit_of_the_spec_or_a_label_is() -> None:
    applied = AppliedDigests()
    desired = deployment()
    child = Child.of(DEPLOYMENT, desired)
    applied.record(child, desired, deployment())
    assert applied.current(child, desired, observe(deployment(status={"readyReplicas": 1})))
    assert not applied.current(child, desired, observe(deployment(spec={"replicas": 7})))
    assert not applied.current(child, desired, observe(stamped(deployment(), labels={"mine": "x"})))


def test_a_missing_child_or_a_new_wish_is_not_current() -> None:
    applied = AppliedDigests()
    desired = deployment()
    child = Child.of(DEPLOYMENT, desired)
    applied.record(child, desired, deployment())
    assert not applied.current(child, desired, None)
    assert not applied.current(child, deployment(spec={"replicas": 2}), observe(deployment()))
