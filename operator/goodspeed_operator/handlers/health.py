"""Answers /healthz, /readyz and /metrics.

Watches can die in silence, so being alive is not enough to be healthy: a
leader is healthy as long as its work goes on, seen by a heartbeat that goes
through the very queue and workers that reconcile clusters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


@dataclass(slots=True)
class Health:
    """What the probes are told.

    Attributes:
        stale_seconds: a leader whose last reconcile is older is unhealthy.
        clock: monotonic seconds.
    """

    stale_seconds: float = 120.0
    clock: Callable[[], float] = time.monotonic
    leading: bool = False
    _last: float = field(default=0.0)

    def __post_init__(self) -> None:
        self._last = self.clock()

    def reconciled(self) -> None:
        """A worker has finished a reconcile, or a heartbeat in its place."""
        self._last = self.clock()

    def started_leading(self) -> None:
        """The age counts from now: a replica that waited has nothing to show yet."""
        self.leading = True
        self.reconciled()

    @property
    def age_seconds(self) -> float:
        """Seconds since the last reconcile."""
        return self.clock() - self._last

    def verdict(self) -> tuple[bool, str]:
        """Whether all is well, and in words."""
        if not self.leading:
            return True, "waiting for the lease\n"
        if self.age_seconds > self.stale_seconds:
            return False, f"no reconcile for {self.age_seconds:.0f} s, over {self.stale_seconds:.0f} s\n"
        return True, f"last reconcile {self.age_seconds:.0f} s ago\n"


def application(health: Health, registry: CollectorRegistry) -> web.Application:
    """The HTTP application behind the probes' and Prometheus's port."""

    async def healthz(_: web.Request) -> web.Response:
        well, words = health.verdict()
        return web.Response(status=200 if well else 503, text=words)

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="leading\n" if health.leading else "standing by\n")

    async def metrics(request: web.Request) -> web.Response:
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encoder(registry), headers={"Content-Type": content_type})

    app = web.Application(client_max_size=1024)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app
