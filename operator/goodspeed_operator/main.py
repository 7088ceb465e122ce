"""`goodspeed-operator`: the command line, and the order in which the operator starts and stops."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from goodspeed_operator.resources.fleet import RUNTIME_IMAGE
from goodspeed_runtime import logs, options
from goodspeed_runtime.process import stop_signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from goodspeed_operator.cluster.client import KubernetesAPI
    from goodspeed_operator.handlers.controller import Controller

logger = logging.getLogger("goodspeed_operator")

DEFINITION_SECONDS = 2.0
LACK_TOLD_EVERY = 15

app = typer.Typer(add_completion=False)


@app.command()
def run(
    namespaces: Annotated[
        str,
        typer.Option(
            envvar="GOODSPEED_NAMESPACES", help="Namespaces to serve, with commas; empty serves all."
        ),
    ] = "",
    runtime_image: Annotated[
        str,
        typer.Option(
            envvar="GOODSPEED_RUNTIME_IMAGE", help="Image of verifiers and drafters that name none."
        ),
    ] = RUNTIME_IMAGE,
    workers: Annotated[
        int, typer.Option(envvar="GOODSPEED_WORKERS", min=1, max=64, help="Clusters reconciled at once.")
    ] = 8,
    lease_name: Annotated[
        str, typer.Option(envvar="GOODSPEED_LEASE_NAME", help="Lease that only the acting replica holds.")
    ] = "goodspeed-operator",
    lease_namespace: Annotated[
        str, typer.Option(envvar="GOODSPEED_LEASE_NAMESPACE", help="Namespace of the lease.")
    ] = "default",
    identity: Annotated[
        str, typer.Option(envvar="GOODSPEED_IDENTITY", help="This replica's name.", show_default="the host's")
    ] = "",
    address: options.Address = options.EVERY_ADDRESS,
    http_port: Annotated[
        int,
        typer.Option(
            envvar="GOODSPEED_HTTP_PORT", min=0, max=65535, help="Port of /healthz, /readyz, /metrics."
        ),
    ] = 8080,
    stale_seconds: Annotated[
        float,
        typer.Option(
            envvar="GOODSPEED_STALE_SECONDS",
            min=30,
            help="Unhealthy without a finished reconcile for so long.",
        ),
    ] = 120.0,
    log_format: options.LogFormat = "text",
    log_level: options.LogLevel = "info",
) -> None:
    """Reconcile GoodSpeedClusters into verifiers and drafters.

    Runs in a pod as its service account, or anywhere with a kubeconfig:

        goodspeed-operator --lease-namespace default --address 127.0.0.1
    """
    logs.configure(log_format, log_level)
    logging.getLogger("kopf").setLevel(logging.WARNING)  # a line an event otherwise
    for name in ("running", "orchestration"):  # how watching ended is told by `watch`, in one line
        logging.getLogger(f"kopf._core.reactor.{name}").setLevel(logging.CRITICAL)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    wanted = tuple(part.strip() for part in namespaces.split(",") if part.strip())
    lease = (lease_name, lease_namespace, identity or socket.gethostname())
    raise typer.Exit(
        asyncio.run(_run(wanted, runtime_image, workers, lease, (address, http_port), stale_seconds))
    )


async def _run(
    namespaces: tuple[str, ...],
    image: str,
    workers: int,
    lease: tuple[str, str, str],
    listen: tuple[str, int],
    stale_seconds: float,
) -> int:
    from aiohttp import web
    from kubernetes.aio.config import ConfigException

    from goodspeed_operator.cluster.client import APIError, KubernetesAPI
    from goodspeed_operator.cluster.lease import LeaseLostError, lead
    from goodspeed_operator.handlers.controller import Controller, StartOverError
    from goodspeed_operator.handlers.health import Health, application
    from goodspeed_operator.handlers.metrics import OperatorMetrics
    from goodspeed_operator.handlers.watch import WatchEndedError

    metrics = OperatorMetrics()
    health = Health(stale_seconds)
    runner = web.AppRunner(application(health, metrics.registry), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, *listen).start()
        api = await KubernetesAPI.connect()
    except (OSError, ConfigException) as error:
        logger.error("cannot start: %s", error)
        await runner.cleanup()
        return 1
    stopping = asyncio.create_task(stop_signal().wait())

    def controller(pod_monitors: bool) -> Controller:
        return Controller(
            api,
            namespaces=namespaces,
            image=image,
            workers=workers,
            pod_monitors=pod_monitors,
            metrics=metrics,
            health=health,
        )

    async def work() -> None:
        metrics.leading.set(1)
        while True:
            try:
                await _act(controller, api, namespaces)
            except* StartOverError as reasons:
                logger.info("starting over: %s", reasons.exceptions[0])

    name, namespace, identity = lease
    logger.info("waiting for lease %s/%s as %s", namespace, name, identity)
    leading = asyncio.create_task(lead(api, name=name, namespace=namespace, identity=identity, work=work))
    await asyncio.wait({leading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    code = 0
    leading_ended = leading.done()
    leading.cancel()
    outcome = (await asyncio.gather(leading, return_exceptions=True))[0]
    if leading_ended:
        code = 1
        while isinstance(outcome, BaseExceptionGroup):
            outcome = outcome.exceptions[0]
        known = isinstance(outcome, LeaseLostError | WatchEndedError | APIError)
        logger.error("stopping: %s", outcome, exc_info=None if known else outcome)
    await api.__aexit__(None, None, None)
    await runner.cleanup()
    return code


async def _until_served(api: KubernetesAPI) -> None:
    """Waits for the definition: it may come after the operator's pods, or somebody may have deleted it."""
    from goodspeed_operator.cluster.kinds import CLUSTER

    told = 0
    while not await api.serves(CLUSTER):
        if told % LACK_TOLD_EVERY == 0:
            logger.warning("the API server does not know %s.%s: apply crds/", CLUSTER.plural, CLUSTER.group)
        told += 1
        await asyncio.sleep(DEFINITION_SECONDS)


async def _act(make: Callable[[bool], Controller], api: KubernetesAPI, namespaces: tuple[str, ...]) -> None:
    """Watches and reconciles until cancelled, or until either fails."""
    from goodspeed_operator.handlers.controller import has_pod_monitors
    from goodspeed_operator.handlers.watch import watch

    await _until_served(api)
    pod_monitors = await has_pod_monitors(api)
    controller = make(pod_monitors)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(controller.run(), name="controller")
        tasks.create_task(watch(controller, api, namespaces, pod_monitors=pod_monitors), name="watch")


def main() -> None:
    """Entry point of the console script."""
    app()
