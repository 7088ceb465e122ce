"""One operator, two hundred clusters: all become ready, without an error, in little memory, and then rest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import cluster, eventually
from control_plane import ControlPlane
from operator_process import OperatorProcess

pytestmark = [
    pytest.mark.apiserver,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.usefixtures("hollow"),
]

CLUSTERS = 200
NAMESPACES = ("scale-a", "scale-b", "scale-c", "scale-d")
REST_SECONDS = 90.0
USER = "system:serviceaccount:goodspeed-system:goodspeed"

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def namespaces(controllers: ControlPlane) -> Iterator[tuple[str, ...]]:
    for name in NAMESPACES:
        controllers.kubectl("create", "namespace", name)
    yield NAMESPACES
    controllers.kubectl("delete", "namespace", *NAMESPACES, "--wait=false")


def fleet(number: int) -> dict[str, Any]:
    pools = [
        {"name": "one", "model": "builtin://smollm2-135m-draft-1l"},
        {"name": "lookup", "model": "ngram://"},
    ]
    return cluster(NAMESPACES[number % len(NAMESPACES)], f"fleet-{number}", drafters=pools)


def ready(plane: ControlPlane) -> int:
    """How many clusters are."""
    column = 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    return plane.kubectl("get", "gsc", "-A", "-o", column).stdout.split().count("True")


def asked(plane: ControlPlane, since: int) -> Counter[tuple[str, str]]:
    """What the operator asked the API server for, watches and its lease aside."""
    return Counter(
        (event["verb"], event["objectRef"]["resource"])
        for event in plane.audited(USER, since=since)
        if event["verb"] != "watch" and event.get("objectRef", {}).get("resource", "leases") != "leases"
    )


def test_two_hundred_clusters_become_ready_and_then_rest(
    controllers: ControlPlane,
    account: Path,
    tmp_path: Path,
    namespaces: tuple[str, ...],
    record_property: Record,
) -> None:
    with OperatorProcess(account, tmp_path / "operator.log") as operator:
        operator.until_leading()
        began = time.monotonic()
        manifests = yaml.safe_dump_all(fleet(number) for number in range(CLUSTERS))
        controllers.kubectl("apply", "--server-side", "-f", "-", text=manifests)
        eventually(lambda: ready(controllers) == CLUSTERS, 900, every=3)
        record_property("all_ready_seconds", time.monotonic() - began)
        record_property("reconciles", operator.metric("goodspeed_operator_reconcile_total"))
        record_property("api_requests", operator.metric("goodspeed_operator_api_requests_total"))

        eventually(lambda: operator.metric("goodspeed_operator_queue_length") <= 1, 60)
        time.sleep(15)
        position, processor = controllers.audit_position(), operator.processor_seconds()
        time.sleep(REST_SECONDS)
        at_rest = asked(controllers, position)
        each = sum(at_rest.values()) / CLUSTERS / (REST_SECONDS / 30)
        record_property("requests_per_cluster_per_30_s_at_rest", each)
        record_property("cores_at_rest", (operator.processor_seconds() - processor) / REST_SECONDS)
        record_property("resident_mebibytes", operator.resident_mebibytes())
        record_property("peak_mebibytes", operator.peak_mebibytes())
        assert each < 1, at_rest
        assert operator.peak_mebibytes() < 512
        assert operator.metric("goodspeed_operator_reconcile_errors_total") == 0, operator.log()[-3000:]
        assert "Traceback" not in operator.log()

        # A start over finds everything as it should be, and changes none of it.
        operator.kill()
        position, began = controllers.audit_position(), time.monotonic()
        operator.start().until_leading(60)
        eventually(lambda: operator.metric("goodspeed_operator_reconcile_total") >= CLUSTERS, 300)
        eventually(lambda: operator.metric("goodspeed_operator_queue_length") <= 1, 300)
        record_property("restart_seconds", time.monotonic() - began)
        record_property("restart_peak_mebibytes", operator.peak_mebibytes())
        again = asked(controllers, position)
        changed = {(verb, kind) for verb, kind in again if verb in {"create", "delete"} and kind != "events"}
        assert changed == set(), again
        assert operator.peak_mebibytes() < 512
        assert operator.metric("goodspeed_operator_reconcile_errors_total") == 0, operator.log()[-3000:]
