"""The CRD in a real API server: accepted, defaulting, refusing in the rules' words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane

from bad_specs import TABLE, broken
from goodspeed_operator.api.loading import load_cluster, parse_cluster
from goodspeed_operator.resources.fleet import desired

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def refusal(plane: ControlPlane, cluster: dict[str, Any]) -> str:
    done = plane.kubectl(
        "create", "--dry-run=server", "--validate=strict", "-f", "-", text=json.dumps(cluster), check=False
    )
    return done.stderr if done.returncode else ""


def test_the_definition_is_accepted_without_a_word_of_warning(control_plane: ControlPlane) -> None:
    conditions = control_plane.get("crd", "goodspeedclusters.goodspeed.io")["status"]["conditions"]
    states = {condition["type"]: condition["status"] for condition in conditions}
    assert states["Established"] == "True"
    assert states.get("NonStructuralSchema", "False") == "False"


def test_a_good_cluster_is_accepted(control_plane: ControlPlane) -> None:
    assert refusal(control_plane, TABLE["base"]) == ""


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: str(case["set"])[:70])
def test_what_could_never_run_is_refused_in_the_words_of_its_rule(
    control_plane: ControlPlane, case: dict[str, Any]
) -> None:
    if case.get("only") == "python":
        assert refusal(control_plane, broken(case)) == ""
        return
    words = refusal(control_plane, broken(case))
    assert words
    assert (case.get("server") or case.get("says", "")) in words


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_accepted_and_its_defaults_are_pythons(control_plane: ControlPlane, path: Path) -> None:
    done = control_plane.kubectl("apply", "--server-side", "--dry-run=server", "-o", "json", "-f", str(path))
    printed = json.loads(done.stdout)
    # A Secret may stand beside the cluster; kubectl then prints a list.
    stored = next(each for each in printed.get("items", [printed]) if each["kind"] == "GoodSpeedCluster")
    assert parse_cluster(stored).spec == load_cluster(path.read_text()).spec
    assert stored["spec"]["scheduler"]["allocator"] == "gradient"
    assert stored["spec"]["networkPolicy"]["clients"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_manifest_of_an_example_is_applied_server_side(control_plane: ControlPlane, path: Path) -> None:
    done = control_plane.kubectl(
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "--field-manager=goodspeed-operator",
        "-f",
        "-",
        text=yaml.safe_dump_all(desired(load_cluster(path.read_text()))),
    )
    assert "Warning" not in done.stderr, done.stderr


def test_clusters_are_scaled_and_listed_and_keep_their_status(control_plane: ControlPlane) -> None:
    control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / "examples/quickstart.yaml"))
    control_plane.kubectl("scale", "gsc/quickstart", "--replicas=3")
    assert control_plane.get("gsc", "quickstart")["spec"]["verifier"]["replicas"] == 3
    status = {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "AllReady",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
        "verifiers": {"replicas": 3, "readyReplicas": 3, "summary": "3/3", "selector": "a=b"},
        "drafters": {"summary": "4/4"},
        "goodput": "120.5",
        "fairness": "0.98",
    }
    patch = json.dumps({"status": status})
    control_plane.kubectl("patch", "gsc", "quickstart", "--subresource=status", "--type=merge", "-p", patch)
    listed = control_plane.kubectl("get", "gsc").stdout.splitlines()
    assert listed[0].split() == ["NAME", "READY", "VERIFIERS", "DRAFTERS", "GOODPUT", "FAIRNESS", "AGE"]
    assert listed[1].split()[:6] == ["quickstart", "True", "3/3", "4/4", "120.5", "0.98"]
    assert "quickstart" in control_plane.kubectl("get", "all").stdout
    path = "/apis/goodspeed.io/v1alpha1/namespaces/default/goodspeedclusters/quickstart/scale"
    scale = json.loads(control_plane.kubectl("get", "--raw", path).stdout)
    assert scale["status"] == {"replicas": 3, "selector": "a=b"}
    bad = json.dumps({"status": {"conditions": [{**status["conditions"][0], "reason": "Whatever"}]}})
    refused = control_plane.kubectl(
        "patch", "gsc", "quickstart", "--subresource=status", "--type=merge", "-p", bad, check=False
    )
    assert "Unsupported value" in refused.stderr
    control_plane.kubectl("delete", "gsc", "quickstart")
