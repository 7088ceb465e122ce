"""/healthz, /readyz and /metrics of a verifier, and the orders of the slow loop.

Orders come from the operator alone: the pods' network policy lets only it and
the readers of metrics in here. They are carried out at once and kept nowhere;
whoever gave them sees in the metrics whether they still stand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from goodspeed_runtime.metrics import expose


@dataclass(slots=True)
class Orders:
    """What can be asked of a verifier that serves.

    Attributes:
        move: sends the drafter named first to the cell at ``host:port``; False when it is not here.
        set_budget: changes C.
        most_budget: the largest C there is room for; 0 until it serves.
    """

    move: Callable[[str, str], bool] | None = None
    set_budget: Callable[[int], None] | None = None
    most_budget: int = 0


def application(
    registry: CollectorRegistry, healthy: Callable[[], str], ready: Callable[[], str], orders: Orders
) -> Starlette:
    """The HTTP application.

    Args:
        registry: what /metrics shows.
        healthy: why the process must be restarted; empty while it need not be.
        ready: why it cannot serve; empty while it can.
        orders: filled in once it serves.
    """

    def answer(trouble: str) -> Response:
        return PlainTextResponse(f"{trouble or 'ok'}\n", status_code=503 if trouble else 200)

    async def healthz(_: Request) -> Response:
        return answer(healthy())

    async def readyz(_: Request) -> Response:
        return answer(ready())

    async def metrics(request: Request) -> Response:
        text, content_type = expose(registry, request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    async def cell(request: Request) -> Response:
        verifier = (await _body(request)).get("verifier")
        if not isinstance(verifier, str) or not verifier:
            return _refuse(400, "verifier must be host:port of the cell to go to")
        drafter = request.path_params["drafter"]
        if orders.move is None or not orders.move(drafter, verifier):
            return _refuse(404, f"drafter {drafter!r} has no stream here")
        return PlainTextResponse("ok\n", status_code=202)

    async def budget(request: Request) -> Response:
        tokens = (await _body(request)).get("tokens")
        if orders.set_budget is None:
            return answer(ready() or "not serving")
        if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens <= orders.most_budget:
            return _refuse(400, f"tokens must be a number from 0 to {orders.most_budget}")
        orders.set_budget(tokens)
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/drafters/{drafter}/cell", cell, methods=["PUT"]),
            Route("/budget", budget, methods=["PUT"]),
        ]
    )


async def _body(request: Request) -> dict[str, object]:
    try:
        found = json.loads(await request.body())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _refuse(status: int, words: str) -> Response:
    return PlainTextResponse(f"{words}\n", status_code=status)
