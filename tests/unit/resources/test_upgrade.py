"""An operator that is upgraded restarts nothing but for a new default image: pods stay as they were."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from quickstart_fleet import EXAMPLES, workloads

from goodspeed_operator.api.loading import load_cluster
from goodspeed_operator.resources.fleet import desired

STANDING = yaml.safe_load(Path(__file__).with_name("standing_pods.yaml").read_text())


def templates(path: Path) -> dict[str, str]:
    """Digests of the pod templates of an example, by workload."""
    found = workloads(desired(load_cluster(path.read_text()), image="goodspeed/runtime:standing"))
    return {
        each["metadata"]["name"]: hashlib.blake2b(
            json.dumps(each["spec"]["template"], sort_keys=True).encode(), digest_size=8
        ).hexdigest()
        for each in found
    }


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_pods_of_an_example_are_to_the_byte_as_they_were(path: Path) -> None:
    # Where they have to change, note them anew, and say in the change's notes that an upgrade restarts pods.
    assert templates(path) == STANDING[path.name]
