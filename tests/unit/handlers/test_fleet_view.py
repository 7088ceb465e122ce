"""From what the watches show to what decisions are made of."""

from __future__ import annotations

from typing import Any

import pytest

from goodspeed_operator.api.status import Reason
from goodspeed_operator.cluster.kinds import POD
from goodspeed_operator.handlers.fleet import SILENT_POD_SECONDS, pods_of, silent, troubles_of
from goodspeed_operator.handlers.observed import Child, Observation, observe

CREATED = "2026-01-01T00:00:00Z"
BORN = 1767225600.0


def seen(*pods: dict[str, Any]) -> dict[Child, Observation]:
    return {Child.of(POD, pod): observe(pod) for pod in pods}


def pod(name: str, *, ready: bool = True, **status: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": {
            "name": name,
            "namespace": "models",
            "uid": name,
            "creationTimestamp": CREATED,
            "labels": {"app.kubernetes.io/component": "drafter"},
        },
        "status": {"phase": "Running", "conditions": conditions, **status},
    }


EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "low on disk"}


@pytest.mark.parametrize(("successor_ready", "expected"), [(False, [Reason.EVICTED]), (True, [])])
def test_an_evicted_pod_is_told_of_until_its_successor_serves(
    successor_ready: bool, expected: list[Reason]
) -> None:
    children = seen(pod("old", ready=False, **EVICTED), pod("new", ready=successor_ready))
    troubles = troubles_of(children, pods_of(children, BORN), "drafter")
    assert [trouble.reason for trouble in troubles] == expected


@pytest.mark.parametrize(("age", "expected"), [(SILENT_POD_SECONDS - 1, []), (SILENT_POD_SECONDS + 1, ["a"])])
def test_a_pod_that_nothing_of_has_run_is_asked_about_after_a_while(age: float, expected: list[str]) -> None:
    children = seen(pod("a", ready=False, phase="Pending"))
    pods = pods_of(children, BORN + age)
    assert [found.name for found in silent(children, pods, BORN + age)] == expected


def test_a_pod_that_is_going_is_gone() -> None:
    going = pod("a")
    going["metadata"]["deletionTimestamp"] = CREATED
    assert pods_of(seen(going), BORN) == []
