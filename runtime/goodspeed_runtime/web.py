"""Runs an ASGI application beside whatever else the process does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's, which stops its parts in order."""
        yield


class WebServer:
    """An HTTP server as a task of the running loop."""

    def __init__(self, app: Any, *, backlog: int = 512) -> None:
        self._server = _Server(
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", backlog=backlog)
        )
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listens.

        Raises:
            OSError: the address cannot be had.
        """
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
        self.port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve([listener]), name="http")

    async def stop(self, seconds: float) -> None:
        """Finishes the requests under way, for at most ``seconds``."""
        if self._task is None:
            return
        self._server.config.timeout_graceful_shutdown = max(1, round(seconds))
        self._server.should_exit = True
        await asyncio.wait({self._task}, timeout=seconds + 2)
        self._task.cancel()
