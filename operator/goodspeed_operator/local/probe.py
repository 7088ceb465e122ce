"""Probes as Kubernetes defines them: what to ask, and what the answers add up to.

The asking is `prober`'s. Here are the types and the counting, which know no clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class HttpGet:
    """GET; 200 to 399 is success."""

    port: int
    path: str = "/"
    scheme: str = "http"


@dataclass(frozen=True, slots=True)
class Grpc:
    """The gRPC health protocol; SERVING is success."""

    port: int
    service: str = ""


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """A connection that opens is success."""

    port: int


@dataclass(frozen=True, slots=True)
class Exec:
    """A command that exits with 0 is success."""

    command: tuple[str, ...]


Action = HttpGet | Grpc | TcpSocket | Exec


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe; seconds and counts as in the pod's manifest, Kubernetes' defaults filled in."""

    action: Action
    initial_delay: float = 0.0
    period: float = 10.0
    timeout: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3

    @classmethod
    def parse(cls, manifest: Mapping[str, Any], ports: Mapping[str, int]) -> Probe:
        """Reads a probe of a container whose named ports are `ports`.

        Raises:
            ValueError: no action that is known, or a port name that the container lacks.
        """
        return cls(
            action=_action(manifest, ports),
            initial_delay=float(manifest.get("initialDelaySeconds", 0)),
            period=float(manifest.get("periodSeconds", 10)),
            timeout=float(manifest.get("timeoutSeconds", 1)),
            success_threshold=int(manifest.get("successThreshold", 1)),
            failure_threshold=int(manifest.get("failureThreshold", 3)),
        )

    def eager(self, every: float) -> Probe:
        """The same patience in seconds, asked more often and at once.

        On one machine a question costs nothing, and a start should not wait for a period to pass.
        """
        if every >= self.period:
            return self
        patience = self.initial_delay + self.period * self.failure_threshold
        return replace(
            self, initial_delay=0.0, period=every, failure_threshold=max(1, math.ceil(patience / every))
        )


def _action(manifest: Mapping[str, Any], ports: Mapping[str, int]) -> Action:
    def port(value: int | str) -> int:
        if isinstance(value, int):
            return value
        if value not in ports:
            raise ValueError(f"probe names port {value!r}, the container has {sorted(ports) or 'none'}")
        return ports[value]

    match manifest:
        case {"httpGet": get}:
            return HttpGet(port(get["port"]), get.get("path", "/"), get.get("scheme", "HTTP").lower())
        case {"grpc": grpc}:
            return Grpc(port(grpc["port"]), grpc.get("service") or "")
        case {"tcpSocket": tcp}:
            return TcpSocket(port(tcp["port"]))
        case {"exec": command}:
            return Exec(tuple(command["command"]))
    raise ValueError(f"probe has no httpGet, grpc, tcpSocket or exec: {sorted(manifest)}")


@dataclass(frozen=True, slots=True)
class Tally:
    """Answers so far: those in a row, and the verdict once a threshold was reached."""

    successes: int = 0
    failures: int = 0
    verdict: bool | None = None

    def after(self, succeeded: bool, probe: Probe) -> Tally:
        """The tally with one more answer."""
        if succeeded:
            count = self.successes + 1
            return Tally(count, 0, True if count >= probe.success_threshold else self.verdict)
        count = self.failures + 1
        return Tally(0, count, False if count >= probe.failure_threshold else self.verdict)
