"""Every rule of the resource, broken once, for whoever has to refuse it: Python and the API server."""

import copy
from pathlib import Path
from typing import Any

import yaml

TABLE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())


def broken(case: dict[str, Any]) -> dict[str, Any]:
    """The table's base with what the case sets."""
    cluster = copy.deepcopy(TABLE["base"])
    for path, value in case["set"].items():
        *parents, last = path.split(".")
        place = cluster
        for step in parents:
            place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
        place[last] = value
    return cluster
