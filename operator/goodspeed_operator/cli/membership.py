"""Who belongs to a fleet on this machine, and the file by which other commands find it."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.local.fleet import Fleet
from goodspeed_operator.rebalance.observe import Members, Place
from goodspeed_operator.rebalance.report import Report, metrics_reason
from goodspeed_operator.resources.naming import DRAFTER, VERIFIER

FILE = "fleet.json"


def members_of(fleet: Fleet) -> Members:
    """The fleet's pods that serve; their number is the file's, so no pool is resized here."""
    places = [
        (
            member.role,
            fleet.statuses[member.name].ready,
            Place(member.name, member.url, member.pool),
        )
        for member in fleet.members
        if member.name in fleet.statuses
    ]
    down = [place.name for role, ready, place in places if role == VERIFIER and not ready]
    drafters = [(ready, place) for role, ready, place in places if role == DRAFTER]
    return Members(
        cells=tuple(place for role, ready, place in places if role == VERIFIER and ready),
        drafters=tuple(place for ready, place in drafters if ready),
        replicas=Counter(place.pool for _, place in drafters),
        ready=Counter(place.pool for ready, place in drafters if ready),
        unsettled=f"{down[0]} does not serve" if down else "",
    )


def write(state: Path, cluster: GoodSpeedCluster, members: Members, report: Report) -> None:
    """Leaves word of a fleet, and of how its rebalancing stands, in its state folder."""
    plain = {
        "name": cluster.name,
        "process": os.getpid(),
        "cells": [[each.name, each.url] for each in members.cells],
        "drafters": [[each.name, each.url, each.pool] for each in members.drafters],
        "metrics": {"reason": metrics_reason(report.fault).value, "message": report.words},
        "decisions": [each.plain() for each in report.decisions],
    }
    path = state / f"{FILE}.new"
    path.write_text(json.dumps(plain, indent=1), encoding="utf-8")
    path.replace(state / FILE)


def find(name: str, states: Path) -> Path | None:
    """The state folder of a fleet of this name that runs on this machine now; the youngest of several."""
    found = []
    for path in states.glob(f"{name}-*/{FILE}"):
        try:
            process = int(json.loads(path.read_text(encoding="utf-8"))["process"])
            os.kill(process, 0)
        except (OSError, ValueError, KeyError):
            continue
        found.append(path)
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def read(state: Path) -> Members:
    """The members that a fleet has left word of.

    Raises:
        OSError, ValueError, KeyError: there is no such file, or it is not a fleet's.
    """
    plain = json.loads((state / FILE).read_text(encoding="utf-8"))
    drafters = tuple(Place(name, url, pool) for name, url, pool in plain["drafters"])
    pools = Counter(each.pool for each in drafters)
    cells = tuple(Place(name, url) for name, url in plain["cells"])
    return Members(cells, drafters, pools, pools)
