"""What the processes of all servers share: where one runs, when it is to stop, and its start."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from goodspeed_runtime.models.dtype import Device, DType, Weights

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model runs, and where its server listens.

    Attributes:
        dtype: that the model runs in.
        weights: what its linear layers are rounded to.
        device: that the model runs on.
        threads: of torch; 0 leaves it to torch.
        cache: folder of models; None is the user's.
        address: IP address to listen on.
        http_port: 0 is any free one.
        drain_seconds: how long the work under way may go on after SIGTERM.
    """

    dtype: DType
    weights: Weights
    device: Device
    threads: int
    cache: Path | None
    address: str
    http_port: int
    drain_seconds: float


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM or SIGINT from now on; needs a running loop, in the main thread."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def loaded(load: Callable[[], T], stopping: asyncio.Task[bool]) -> T:
    """What ``load`` returns or raises, from a thread of its own; a signal meanwhile ends the process."""
    loading = asyncio.create_task(asyncio.to_thread(load))
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        # Loading cannot be interrupted half-way, and nobody is served yet.
        os._exit(0)
    return loading.result()


def let_threads_sleep() -> None:
    """Has OpenMP's threads give their core up between passes; call it before torch is first imported.

    Threads that spin meanwhile starve whoever shares the cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
