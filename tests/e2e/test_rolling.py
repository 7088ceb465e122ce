"""Changes roll through a fleet in a real API server, forwards and back, new cells before old ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from clusters import NEW, NEW_SET, OLD, OLD_SET, Clusters, Watcher, eventually, pools
from control_plane import ControlPlane
from hollow_node import HollowNode
from operator_process import OperatorProcess

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("hollow")]


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
