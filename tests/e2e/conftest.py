"""The control plane that tests marked ``apiserver`` share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds/goodspeedclusters.goodspeed.io.yaml"


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane that knows GoodSpeedClusters."""
    if not os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip(
            "needs a real API server: set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd"
        )
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as plane:
        plane.kubectl("apply", "--server-side", "-f", str(CRD))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRD))
        yield plane
