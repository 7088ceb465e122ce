"""The chart's whole life with Helm 3 and Helm 4, in a control plane that has never seen it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import Clusters, cluster, eventually
from control_plane import ControlPlane
from node_process import NodeProcess

from conftest import CHART, NEEDS

pytestmark = [pytest.mark.apiserver, pytest.mark.processes]

SYSTEM = "goodspeed-system"
DEFINITION = "goodspeedclusters.goodspeed.io"
WAIT = ("--wait", "--timeout=120s")


class Helm:
    """One helm binary, on one control plane and one release."""

    def __init__(self, binary: Path, plane: ControlPlane, home: Path) -> None:
        self._binary = binary
        self._plane = plane
        self._home = home

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        """Runs helm in the operator's namespace; returns what it says."""
        done = subprocess.run(
            [self._binary, f"--kubeconfig={self._plane.kubeconfig}", "--namespace", SYSTEM, *arguments],
            env={"HOME": str(self._home), "PATH": "/usr/bin:/bin"},
            text=True,
            capture_output=True,
            timeout=180,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"helm {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, helms: dict[str, Path]) -> Iterator[ControlPlane]:
    """A control plane without the definition, with a node that runs pods."""
    folder = tmp_path_factory.mktemp("helm-plane")
    with ControlPlane(folder) as fresh:
        if not fresh.controllers:
            pytest.skip(NEEDS)
        with NodeProcess(fresh.kubeconfig, folder / "node"):
            yield fresh


@pytest.fixture(params=["3", "4"])
def helm(
    request: pytest.FixtureRequest, plane: ControlPlane, helms: dict[str, Path], tmp_path: Path
) -> Iterator[Helm]:
    if request.param not in helms:
        pytest.skip(f"needs a helm {request.param} in KUBEBUILDER_ASSETS")
    helm = Helm(helms[request.param], plane, tmp_path)
    yield helm
    helm("uninstall", "goodspeed", "--ignore-not-found", "--wait")
    plane.kubectl("delete", "crd", DEFINITION, "--ignore-not-found")
    plane.kubectl("delete", "namespace", SYSTEM, "--ignore-not-found", "--timeout=60s")


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The chart as an earlier version: its definition lacks a field that this one has."""
    folder = tmp_path / "goodspeed"
    shutil.copytree(CHART, folder)
    definition = folder / "files" / f"{DEFINITION}.yaml"
    body = yaml.safe_load(definition.read_text())
    del verifier_fields(body)["prefillChunkTokens"]
    definition.write_text(yaml.safe_dump(body))
    about = yaml.safe_load((folder / "Chart.yaml").read_text())
    (folder / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": "0.0.9"}))
    return folder


def verifier_fields(definition: dict[str, Any]) -> dict[str, Any]:
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    found: dict[str, Any] = schema["properties"]["spec"]["properties"]["verifier"]["properties"]
    return found


def resting(namespace: str) -> dict[str, Any]:
    """A cluster without pods: all but those is there."""
    pool = {"name": "lookup", "model": "ngram://", "replicas": 0}
    return cluster(namespace, verifier={"replicas": 0}, drafters=[pool])


def test_install_upgrade_rollback_and_uninstall_and_the_clusters_stay(
    helm: Helm, plane: ControlPlane, older: Path, record_property: Callable[[str, object], None]
) -> None:
    plane.kubectl("create", "namespace", SYSTEM)
    plane.kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
    began = time.monotonic()
    said = helm("install", "goodspeed", str(older), *WAIT)
    record_property("install_seconds", time.monotonic() - began)
    assert "kubectl apply -f examples/quickstart.yaml" in said
    assert "rollout status deployment/goodspeed" in said
    assert "prefillChunkTokens" not in verifier_fields(plane.get("crd", DEFINITION))
    plane.until_established(DEFINITION)

    fleet = Clusters(plane, "default")
    plane.apply(resting("default"))
    made = eventually(lambda: len(found := fleet.children()) == 13 and found)
    uids = {key: child["metadata"]["uid"] for key, child in made.items()}

    began = time.monotonic()
    helm("upgrade", "goodspeed", str(CHART), "--set=operator.logLevel=debug", *WAIT)
    record_property("upgrade_seconds", time.monotonic() - began)
    assert "prefillChunkTokens" in verifier_fields(plane.get("crd", DEFINITION))
    assert variables(plane)["GOODSPEED_LOG_LEVEL"] == "debug"
    fleet.kubectl("delete", "service", "fleet-drafters")
    eventually(lambda: ("service", "fleet-drafters") in fleet.children(), 30)
    del uids["service", "fleet-drafters"]

    began = time.monotonic()
    helm("rollback", "goodspeed", "1", *WAIT)
    record_property("rollback_seconds", time.monotonic() - began)
    assert "prefillChunkTokens" not in verifier_fields(plane.get("crd", DEFINITION))
    assert variables(plane)["GOODSPEED_LOG_LEVEL"] == "info"

    assert "Succeeded" in helm("test", "goodspeed")

    began = time.monotonic()
    helm("uninstall", "goodspeed", *WAIT)
    record_property("uninstall_seconds", time.monotonic() - began)
    kinds = "all,sa,role,rolebinding,pdb,cm"
    ours = "-lapp.kubernetes.io/instance=goodspeed"
    eventually(lambda: not plane.kubectl("get", kinds, "-n", SYSTEM, ours, "-o", "name").stdout.split())
    roles = plane.kubectl("get", "clusterrole,clusterrolebinding", "-o", "name").stdout
    assert "goodspeed" not in roles
    after = {key: child["metadata"]["uid"] for key, child in fleet.children().items()}
    assert uids.items() <= after.items()

    helm("install", "goodspeed", str(CHART), *WAIT)
    plane.kubectl("delete", "gsc", "fleet", "-n", "default", "--timeout=10s")
    eventually(lambda: not fleet.children(), 60)
    helm("uninstall", "goodspeed", *WAIT)


def variables(plane: ControlPlane) -> dict[str, str]:
    (container,) = plane.get("-n", SYSTEM, "deployment", "goodspeed")["spec"]["template"]["spec"][
        "containers"
    ]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_with_named_namespaces_the_operator_serves_those_and_no_other(
    helm: Helm, plane: ControlPlane, namespace_pair: tuple[str, str]
) -> None:
    served, other = namespace_pair
    helm(
        "install",
        "goodspeed",
        str(CHART),
        "--create-namespace",
        f"--set=operator.watchNamespaces={{{served}}}",
        *WAIT,
    )
    plane.until_established(DEFINITION)
    plane.apply(resting(other), resting(served))
    eventually(lambda: len(Clusters(plane, served).children()) == 13)
    assert Clusters(plane, other).children() == {}
    assert Clusters(plane, other).get("gsc", "fleet").get("status") is None
    helm("uninstall", "goodspeed", *WAIT)


@pytest.fixture
def namespace_pair(plane: ControlPlane) -> Iterator[tuple[str, str]]:
    names = ("served", "other")
    for name in names:
        plane.kubectl("create", "namespace", name)
    yield names
    for name in names:
        plane.kubectl("delete", "namespace", name, "--timeout=60s")


def test_a_definition_that_someone_else_manages_is_left_to_them(helm: Helm, plane: ControlPlane) -> None:
    plane.kubectl("apply", "--server-side", "-f", str(CHART / "files" / f"{DEFINITION}.yaml"))
    refused = helm("install", "goodspeed", str(CHART), "--create-namespace", fails=True)
    assert "goodspeedclusters.goodspeed.io" in refused
    assert "ownership" in refused
    helm("uninstall", "goodspeed", "--ignore-not-found")
    helm("install", "goodspeed", str(CHART), "--create-namespace", "--set=crds.install=false", *WAIT)
    helm("uninstall", "goodspeed", *WAIT)
    assert plane.get("crd", DEFINITION)["metadata"]["name"] == DEFINITION


def test_the_operator_outlives_the_coming_and_going_of_the_definition(
    helm: Helm, plane: ControlPlane, namespace_pair: tuple[str, str]
) -> None:
    helm("install", "goodspeed", str(CHART), "--create-namespace", "--set=crds.install=false", *WAIT)
    for namespace in namespace_pair:
        plane.kubectl("apply", "--server-side", "-f", str(CHART / "files" / f"{DEFINITION}.yaml"))
        plane.until_established(DEFINITION)
        plane.apply(resting(namespace))
        fleet = Clusters(plane, namespace)
        eventually(lambda fleet=fleet: len(fleet.children()) == 13, 60)  # type: ignore[misc]
        plane.kubectl("delete", "crd", DEFINITION)
    pods = plane.get("-n", SYSTEM, "pods")["items"]
    assert [pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods] == [0, 0]
    helm("uninstall", "goodspeed", *WAIT)


def test_what_helm_3_installed_helm_4_upgrades(
    plane: ControlPlane, helms: dict[str, Path], tmp_path: Path
) -> None:
    if not {"3", "4"} <= helms.keys():
        pytest.skip("needs helm 3 and helm 4 in KUBEBUILDER_ASSETS")
    three, four = (Helm(helms[version], plane, tmp_path) for version in "34")
    three("install", "goodspeed", str(CHART), "--create-namespace", *WAIT)
    four("upgrade", "goodspeed", str(CHART), "--set=replicaCount=1", *WAIT)
    assert plane.get("-n", SYSTEM, "deployment", "goodspeed")["spec"]["replicas"] == 1
    four("rollback", "goodspeed", "1", *WAIT)
    assert plane.get("-n", SYSTEM, "deployment", "goodspeed")["spec"]["replicas"] == 2
    four("uninstall", "goodspeed", *WAIT)
    plane.kubectl("delete", "crd", DEFINITION)
