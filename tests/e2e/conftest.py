"""A control plane, the operator's rights in it, the operator, and nodes, for tests marked ``apiserver``."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane
from hollow_node import HollowNode
from node_process import NodeProcess
from operator_process import OperatorProcess

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds/goodspeedclusters.goodspeed.io.yaml"
CHART = ROOT / "charts/goodspeed"
SYSTEM = "goodspeed-system"
FLEET_SYSTEM = "fleet-system"
NEEDS = "needs a real API server: set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd"

_numbers = itertools.count()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures that tests recorded."""
    for report in [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]:
        for name, value in report.user_properties:
            shown = f"{value:.3g}" if isinstance(value, float) else value
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {name} {shown}")


def chart(**values: Any) -> list[dict[str, Any]]:
    """The chart's objects as Helm renders them."""
    import helm_python

    with helm_python.Chart.load(str(CHART)) as loaded:
        texts = loaded.render(values, name="goodspeed", namespace=SYSTEM)
    return [
        found
        for path, text in texts.items()
        if path.endswith(".yaml")
        for found in yaml.safe_load_all(text)
        if found
    ]


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane that knows GoodSpeedClusters."""
    if not os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip(NEEDS)
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as plane:
        plane.kubectl("apply", "--server-side", "-f", str(CRD))
        plane.until_established("goodspeedclusters.goodspeed.io")
        yield plane


@pytest.fixture(scope="session")
def controllers(control_plane: ControlPlane) -> ControlPlane:
    """The control plane, with the controllers that make pods of workloads."""
    if not control_plane.controllers:
        pytest.skip("needs kube-controller-manager and kube-scheduler in KUBEBUILDER_ASSETS")
    return control_plane


@pytest.fixture(scope="session")
def account(controllers: ControlPlane) -> Path:
    """A kubeconfig for the operator's service account, with the rights that the chart gives it."""
    controllers.kubectl("create", "namespace", SYSTEM)
    kinds = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    controllers.apply(*(found for found in chart() if found["kind"] in kinds))
    return controllers.account_config(SYSTEM, "goodspeed")


Start = Callable[..., OperatorProcess]


@pytest.fixture
def start(account: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts operators that end with the test."""
    started: list[OperatorProcess] = []

    def one(identity: str = "one", kubeconfig: Path = account, **options: str) -> OperatorProcess:
        log = tmp_path / f"operator-{identity}.log"
        started.append(OperatorProcess(kubeconfig, log, identity=identity, **options))
        return started[-1].start()

    yield one
    for each in started:
        each.stop()


@pytest.fixture(scope="module")
def operator(account: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """An operator that leads."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    with OperatorProcess(account, log) as running:
        running.until_leading()
        yield running
    assert "Traceback" not in running.log(), running.log()[-4000:]


@pytest.fixture(scope="module")
def hollow(controllers: ControlPlane) -> Iterator[HollowNode]:
    """A node whose pods are always ready, unless a test decides otherwise."""
    with HollowNode(controllers.kubeconfig) as node:
        yield node
    controllers.kubectl("delete", "node", "hollow", "--ignore-not-found")


@pytest.fixture
def namespace(controllers: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own."""
    short = re.sub("[^a-z]+", "-", request.node.name.removeprefix("test_").lower())[:30].strip("-")
    name = f"{short}-{next(_numbers)}"
    controllers.kubectl("create", "namespace", name)
    yield name
    controllers.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def helms() -> dict[str, Path]:
    """The helm binaries there are, by major version."""
    if not os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip(NEEDS)
    found = {}
    for name in ("helm", "helm3", "helm4"):
        path = Path(os.environ["KUBEBUILDER_ASSETS"]) / name
        if path.exists():
            version = subprocess.run([path, "version", "--short"], capture_output=True, text=True, check=True)
            found[version.stdout[1]] = path
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random models: one target twice, and drafters of its vocabulary and of another."""
    from tiny_model import make

    folder = tmp_path_factory.mktemp("models")
    make(folder / "target", seed=1)
    make(folder / "draft", seed=2, layers=1)
    make(folder / "foreign", seed=3, extra=1)
    return folder


@pytest.fixture(scope="module")
def node(controllers: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node whose pods run."""
    with NodeProcess(controllers.kubeconfig, tmp_path_factory.mktemp("node")) as running:
        yield running
    controllers.kubectl("delete", "node", "local", "--ignore-not-found")


def helm(binary: Path, plane: ControlPlane, *arguments: str) -> str:
    done = subprocess.run(
        [binary, f"--kubeconfig={plane.kubeconfig}", *arguments],
        text=True,
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(controllers: ControlPlane, node: NodeProcess, helms: dict[str, Path]) -> Iterator[ControlPlane]:
    """The chart installed by Helm, its operator a pod on the node with its own account."""
    binary = helms[max(helms)]
    arguments = (
        "goodspeed",
        str(CHART),
        "-n",
        FLEET_SYSTEM,
        "--create-namespace",
        "--wait",
        "--timeout=120s",
    )
    helm(binary, controllers, "install", *arguments, "--set=crds.install=false,fullnameOverride=fleet")
    yield controllers
    helm(binary, controllers, "uninstall", "goodspeed", "-n", FLEET_SYSTEM, "--wait")
