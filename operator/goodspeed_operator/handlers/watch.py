"""kopf's part: watch streams that reconnect, and every event handed on.

Only low-level event handlers are used: they write nothing on the objects, no
finalizer, no annotation, no progress, so that the operator may be gone for an
hour and a cluster can be deleted without it.

kopf gets a thread and an event loop of its own: where it runs it takes the
process's signals, and at its end it cancels every task it finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import kopf

from goodspeed_operator.cluster.client import KubernetesAPI
from goodspeed_operator.cluster.kinds import CHILDREN, CLUSTER, POD, Kind
from goodspeed_operator.handlers.controller import SELECTOR, Controller, StartOverError

SERVER_SECONDS = 300
"""A watch that the API server ends now and then cannot be dead for long without being noticed."""


def settings() -> kopf.OperatorSettings:
    """How kopf watches: with both ends' timeouts, alone, and quietly."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.scanning.disabled = True
    chosen.watching.server_timeout = SERVER_SECONDS
    chosen.watching.client_timeout = SERVER_SECONDS + 30
    chosen.watching.connect_timeout = 10
    chosen.watching.reconnect_backoff = 1
    chosen.networking.request_timeout = 30
    chosen.networking.connect_timeout = 10
    chosen.persistence.finalizer = "goodspeed.io/unused"
    chosen.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="goodspeed.io")
    chosen.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix="goodspeed.io")
    for kind in (*CHILDREN, POD):
        chosen.watching.label_selectors[kind.group, kind.version, kind.plural] = SELECTOR
    return chosen


Tell = Callable[[Callable[[], None]], None]
"""Has something called in the controller's event loop."""


class WatchEndedError(RuntimeError):
    """kopf has stopped watching, though nobody asked it to."""


async def watch(
    controller: Controller, api: KubernetesAPI, namespaces: tuple[str, ...], *, pod_monitors: bool
) -> None:
    """Watches until cancelled; the controller is told in this very event loop.

    Raises:
        StartOverError: the definition of clusters has been deleted.
        WatchEndedError: kopf gave up.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()
    ended: asyncio.Future[BaseException | None] = loop.create_future()

    def tell(call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(call)

    def end(error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            asyncio.run(
                kopf.operator(
                    registry=registry(controller, api, tell, pod_monitors=pod_monitors),
                    settings=settings(),
                    standalone=True,
                    clusterwide=not namespaces,
                    namespaces=namespaces,
                    stop_flag=stop,
                )
            )
        except BaseException as found:  # noqa: BLE001 - told in the other thread
            error = found
        tell(lambda: end(error))

    threading.Thread(target=run, name="kopf", daemon=True).start()
    try:
        error = await ended
        if not await api.serves(CLUSTER):
            raise StartOverError("the definition of clusters is gone")
        raise WatchEndedError(f"watching ended: {error or 'no reason given'}") from error
    finally:
        stop.set()


def registry(
    controller: Controller,
    api: KubernetesAPI,
    tell: Callable[[Callable[[], None]], None],
    *,
    pod_monitors: bool,
) -> kopf.OperatorRegistry:
    """Handlers that have every event told to the controller; kopf logs in as ``api`` does."""
    result = kopf.OperatorRegistry()

    @kopf.on.login(registry=result)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        # Asked again after a 401: a pod's token lives for an hour and is read anew.
        found = await api.connection()
        return kopf.ConnectionInfo(
            server=found.server,
            token=found.token or None,
            scheme="Bearer" if found.token else None,
            ca_path=found.authority,
            certificate_path=found.certificate,
            private_key_path=found.key,
            insecure=not found.verify,
        )

    @kopf.on.event(CLUSTER.group, CLUSTER.version, CLUSTER.plural, id="cluster", registry=result)
    async def cluster(event: Any, body: Any, **_: Any) -> None:
        seen, deleted = _plain(body, CLUSTER), event["type"] == "DELETED"
        if event["type"] is None:
            tell(controller.see_beginning)
        tell(lambda: controller.see_cluster(seen, deleted=deleted))

    for kind in (*CHILDREN, POD):
        if not kind.optional or pod_monitors:
            _watch_child(result, controller, tell, kind)
    return result


def _watch_child(
    result: kopf.OperatorRegistry,
    controller: Controller,
    tell: Tell,
    kind: Kind,
) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=result)
    async def child(event: Any, body: Any, **_: Any) -> None:
        seen, deleted = _plain(body, kind), event["type"] == "DELETED"
        if event["type"] is None:
            tell(controller.see_beginning)
        tell(lambda: controller.see_child(kind, seen, deleted=deleted))


def _plain(body: Any, kind: Kind) -> dict[str, Any]:
    return {"apiVersion": kind.api_version, "kind": kind.kind, **dict(body)}
