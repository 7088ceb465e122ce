"""Where a pod that runs as processes stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Phase(StrEnum):
    """Where a pod stands."""

    WAITING = "waiting"
    PULLING = "pulling"
    STARTING = "starting"
    READY = "ready"
    UNREADY = "not ready"
    BACK_OFF = "backing off"
    ENDED = "ended"
    STOPPED = "stopped"


@dataclass(slots=True)
class PodStatus:
    """A pod as it is now; the kubelet writes, everyone reads.

    Attributes:
        name: the pod's.
        address: its loopback address.
        phase: where it stands.
        message: why it is not ready, in words.
        restarts: of its containers.
        crashes: in a row.
        was_ready: it has been ready once.
        initialised: its init containers are through.
        exits: code of the last end, by container; of an init container only when it failed.
        pids: by container, those that run.
        log: of the container that last started.
    """

    name: str
    address: str
    log: Path
    phase: Phase = Phase.WAITING
    message: str = ""
    restarts: int = 0
    crashes: int = 0
    was_ready: bool = False
    initialised: bool = False
    exits: dict[str, int] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether it takes work."""
        return self.phase is Phase.READY


Observer = Callable[[PodStatus], None]
