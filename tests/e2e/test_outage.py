"""The API server goes away and comes back: nothing is forgotten, and what was done meanwhile is made good."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import Clusters, cluster, eventually
from control_plane import ControlPlane
from operator_process import OperatorProcess

from conftest import CRD, NEEDS, SYSTEM, chart

pytestmark = [pytest.mark.apiserver]


@pytest.fixture
def plane(tmp_path: Path, helms: dict[str, Path]) -> Iterator[ControlPlane]:
    """A control plane of the test's own, with the operator's account in it."""
    with ControlPlane(tmp_path / "plane") as fresh:
        if not fresh.controllers:
            pytest.skip(NEEDS)
        fresh.kubectl("apply", "--server-side", "-f", str(CRD))
        fresh.until_established("goodspeedclusters.goodspeed.io")
        fresh.kubectl("create", "namespace", SYSTEM)
        kinds = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
        fresh.apply(*(found for found in chart() if found["kind"] in kinds))
        yield fresh


def test_what_is_deleted_while_no_watch_looks_comes_back(plane: ControlPlane, tmp_path: Path) -> None:
    """A watch that begins anew shows what there is, and never what went away before."""
    fleet = Clusters(plane, "default")
    with OperatorProcess(plane.account_config(SYSTEM, "goodspeed"), tmp_path / "operator.log") as operator:
        operator.until_leading()
        pool = {"name": "lookup", "model": "ngram://", "replicas": 0}
        plane.apply(cluster("default", verifier={"replicas": 0}, drafters=[pool]))
        eventually(lambda: len(fleet.children()) == 13)
        time.sleep(8)
        operator.pause()
        plane.restart_server(0)
        gone = [("service", "fleet-drafters"), ("statefulset", "fleet-verifier-e39188")]
        for kind, name in gone:
            fleet.kubectl("delete", kind, name)
        operator.resume()
        eventually(lambda: operator.dead() or set(gone) <= fleet.children().keys(), 10)
        if operator.dead():
            pytest.skip("this machine was so slow that the operator lost its lease")


@pytest.mark.parametrize("away", [0.0, 15.0], ids=["restarted", "away for longer than the lease"])
def test_after_an_outage_of_the_api_server_drift_is_repaired_again(
    plane: ControlPlane, tmp_path: Path, away: float, record_property: Callable[[str, object], None]
) -> None:
    fleet = Clusters(plane, "default")
    pool = {"name": "lookup", "model": "ngram://", "replicas": 0}
    with OperatorProcess(plane.account_config(SYSTEM, "goodspeed"), tmp_path / "operator.log") as operator:
        operator.until_leading()
        plane.apply(cluster("default", verifier={"replicas": 0}, drafters=[pool]))
        eventually(lambda: len(fleet.children()) == 13)
        plane.restart_server(away)
        fleet.kubectl("delete", "service", "fleet-drafters")
        began = time.monotonic()

        def repaired() -> bool:
            if operator.dead():  # its kubelet would do this
                operator.start()
            return ("service", "fleet-drafters") in fleet.children()

        eventually(repaired, 60)
        record_property("repaired_seconds", time.monotonic() - began)
        plane.apply(cluster("default", verifier={"replicas": 0}, drafters=[{**pool, "maxDraftTokens": 3}]))
        eventually(
            lambda: fleet.get("configmap", "fleet-lookup")["data"]["GOODSPEED_MAX_DRAFT_TOKENS"] == "3", 30
        )
        record_property("survived", operator.log().count("waiting for lease") == 1)
        assert "Traceback" not in operator.log(), operator.log()[-3000:]
