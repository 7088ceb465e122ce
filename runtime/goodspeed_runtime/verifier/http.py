"""/healthz, /readyz and /metrics of a verifier."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


def application(
    registry: CollectorRegistry, healthy: Callable[[], str], ready: Callable[[], str]
) -> Starlette:
    """The HTTP application.

    Args:
        registry: what /metrics shows.
        healthy: why the process must be restarted; empty while it need not be.
        ready: why it cannot serve; empty while it can.
    """

    def answer(trouble: str) -> Response:
        return PlainTextResponse(f"{trouble or 'ok'}\n", status_code=503 if trouble else 200)

    async def healthz(_: Request) -> Response:
        return answer(healthy())

    async def readyz(_: Request) -> Response:
        return answer(ready())

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    )
