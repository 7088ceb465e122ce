"""What `up` and `demo` share: from a file to a serving fleet, and an orderly end whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.loading import ClusterError, load_with_secrets
from goodspeed_operator.api.secrets import Secrets
from goodspeed_operator.local.container import ContainerError
from goodspeed_operator.local.fleet import Fleet, FleetError, manifests_of
from goodspeed_operator.local.network import NoAddressError
from goodspeed_operator.local.pod_status import PodStatus

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def fail(message: str, code: int = 1) -> typer.Exit:
    """Prints an error; raise what it returns."""
    errors.print(f"error: {message}", style="red", markup=False, soft_wrap=True)
    return typer.Exit(code)


def read(file: Path) -> GoodSpeedCluster:
    """The cluster in a file; leaves with status 2 and every bad field when there is none."""
    return read_with_secrets(file)[0]


def read_with_secrets(file: Path) -> tuple[GoodSpeedCluster, Secrets]:
    """`read`, and the Secrets that stand beside the cluster."""
    try:
        return load_with_secrets(file.read_text(encoding="utf-8"))
    except ClusterError as error:
        raise fail(f"{file}: {error}", 2) from error
    except UnicodeDecodeError as error:
        raise fail(f"{file}: not UTF-8 text", 2) from error
    except OSError as error:
        raise fail(f"{file}: {(error.strerror or str(error)).lower()}", 2) from error


def default_state(name: str) -> Path:
    """Where logs and volumes of a fleet go unless somebody says otherwise."""
    home = os.environ.get("XDG_STATE_HOME")
    base = Path(home) if home else Path.home() / ".local" / "state"
    return base / "goodspeed" / f"{name}-{os.getpid()}"


def run(work: Callable[[], Coroutine[Any, Any, int]], *, interrupted: int = 0) -> int:
    """Runs until it is done, or until a signal; then it is cancelled, cleans up and returns ``interrupted``.

    A second signal ends everything at once: what this process started dies with it.
    """

    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None
        stopping = False

        def on_signal() -> None:
            nonlocal stopping
            if stopping:
                os._exit(130)
            stopping = True
            errors.print("\nstopping; once more to kill", style="dim")
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
        try:
            return await work()
        except asyncio.CancelledError:
            if not stopping:
                raise
            return interrupted

    try:
        return asyncio.run(main())
    except (FleetError, ContainerError, NoAddressError) as error:
        raise fail(str(error)) from error


@asynccontextmanager
async def serving(
    cluster: GoodSpeedCluster,
    secrets: Secrets,
    *,
    state: Path,
    cache: Path | None,
    timeout: float,  # noqa: ASYNC109
) -> AsyncIterator[Fleet]:
    """A fleet that is ready, and is stopped when the block is left.

    Raises:
        FleetError, ContainerError, NoAddressError: it cannot be brought up.
    """
    began = time.monotonic()
    fleet = Fleet(manifests_of(cluster), state=state, secrets=secrets, cache=cache, observer=_tell)
    try:
        console.print(f"{cluster.name}: fetching models that are not here yet", style="bold")
        await fleet.prefetch()
        console.print(f"starting {len(fleet.members)} pods; logs in {state / 'logs'}")
        fleet.start()
        with console.status("waiting") as status:

            def waiting(pending: Sequence[PodStatus]) -> None:
                status.update("waiting for " + ", ".join(f"{pod.name} ({pod.phase})" for pod in pending))

            await fleet.ready(timeout, waiting)
        console.print(f"serving after {time.monotonic() - began:.1f} s", style="bold green")
        yield fleet
    finally:
        await fleet.close()


def _tell(status: PodStatus) -> None:
    """Shows what changes; on a terminal the status line shows the waiting already."""
    if sys.stdout.isatty() and not (status.restarts or status.ready):
        return
    text = f"  {status.name:<28} {status.phase:<12} {status.address}"
    console.print(text + (f"  {status.message}" if status.message else ""), markup=False, soft_wrap=True)
