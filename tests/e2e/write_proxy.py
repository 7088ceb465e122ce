"""Stands between an operator and the API server, and says when the operator has written so many times."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

WRITES = {"POST", "PUT", "PATCH", "DELETE"}
_HOP = {"transfer-encoding", "content-encoding", "content-length", "connection", "host"}


class WriteProxy:
    """A proxy in a thread of its own until the context is left; the lease's own writes do not count.

    Attributes:
        kubeconfig: for the operator, with the credentials of the one that the proxy was given.
    """

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._config = yaml.safe_load(kubeconfig.read_text())
        self._server = self._config["clusters"][0]["cluster"]["server"]
        self.kubeconfig = folder / "kubeconfig-proxied"
        self._left = 0
        self._reached: Callable[[], None] = lambda: None
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def after(self, writes: int, call: Callable[[], None]) -> None:
        """Calls back once that many writes from now are stored, and before the last is answered."""
        self._left, self._reached = writes, call

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self._loop.close()

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        async with ClientSession(
            connector=TCPConnector(ssl=False, limit=0),
            timeout=ClientTimeout(total=None),
            auto_decompress=False,
        ) as session:
            app = web.Application(client_max_size=1 << 24)

            async def forward(request: web.Request) -> web.StreamResponse:
                return await self._forward(session, request)

            app.router.add_route("*", "/{path:.*}", forward)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            self._config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
            self.kubeconfig.write_text(yaml.safe_dump(self._config))
            self._started.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _forward(self, session: ClientSession, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        async with session.request(
            request.method, f"{self._server}{request.raw_path}", headers=headers, data=await request.read()
        ) as found:
            kept = {name: value for name, value in found.headers.items() if name.lower() not in _HOP}
            answer = web.StreamResponse(status=found.status, headers=kept)
            if request.method in WRITES and "/leases" not in request.path:
                self._left -= 1
                if self._left == 0:
                    await found.read()
                    self._reached()
            await answer.prepare(request)
            async for piece in found.content.iter_any():
                await answer.write(piece)
            return answer
