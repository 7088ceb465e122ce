"""The operator is killed at every step, and another goes on: the end is the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clusters import NEW, NEW_SET, OLD, OLD_SET, Clusters, Watcher, essence, eventually, pools
from control_plane import ControlPlane
from operator_process import OperatorProcess
from write_proxy import WriteProxy

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("hollow")]

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


def killed_after_each_write(
    proxy: WriteProxy,
    kubeconfig: Path,
    log: Path,
    fleet: Clusters,
    done: Callable[[], bool],
    first: int,
    step: int,
) -> int:
    """Starts the operator again and again, each time killed a write later; returns how often it was."""
    kills = 0
    while True:
        one = OperatorProcess(kubeconfig, log, identity="mortal")
        proxy.after(first + step * kills, one.kill_now)
        one.start()
        eventually(lambda one=one: one.dead() or done(), 60, every=0.05)  # type: ignore[misc]
        if not one.dead() and done():
            one.stop()
            return kills
        one.kill()
        kills += 1


@pytest.mark.timeout(600)
def test_killed_after_every_single_write_it_ends_where_one_that_lives_ends(
    account: Path,
    controllers: ControlPlane,
    namespace: str,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    fleet = Clusters(controllers, namespace)
    with WriteProxy(account, tmp_path) as proxy:

        def kills(done: Callable[[], bool], first: int, step: int) -> int:
            log = tmp_path / "operator.log"
            return killed_after_each_write(proxy, proxy.kubeconfig, log, fleet, done, first, step)

        fleet.apply()
        record_property("kills_while_made", kills(lambda: settled(fleet, OLD_SET), 1, 1))
        made = {key: essence(child) for key, child in fleet.children().items()}
        # A start finds all as it should be and applies it once more, so the new begins after so many writes.
        fleet.apply(target=NEW)
        record_property("kills_while_rolled", kills(lambda: settled(fleet, NEW_SET), 1, 2))
        fleet.apply(target=NEW, drafters=pools()[:1])
        record_property("kills_while_pruned", kills(lambda: settled(fleet, NEW_SET, children=13), 1, 2))
        fleet.apply()
        record_property("kills_while_restored", kills(lambda: settled(fleet, OLD_SET), 1, 2))
    assert {key: essence(child) for key, child in fleet.children().items()} == made


def settled(fleet: Clusters, kept: str, children: int = 17) -> bool:
    """Whether the fleet is ready for its present spec, with these cells alone."""
    body = fleet.get("gsc", "fleet")
    conditions = {found["type"]: found for found in body.get("status", {}).get("conditions", ())}
    ready = conditions.get("Ready", {})
    return (
        (ready.get("status"), ready.get("reason")) == ("True", "AllReady")
        and ready["observedGeneration"] == body["metadata"]["generation"]
        and len(found := fleet.children()) == children
        and [name for kind, name in found if kind == "statefulset"] == [kept]
    )


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
