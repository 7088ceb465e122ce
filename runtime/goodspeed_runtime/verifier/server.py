"""The gRPC server: streams in, sessions out; health, reflection, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.generated import speculation_pb2_grpc as pb_grpc
from goodspeed_runtime.verifier.engine import Engine
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.messages import Target
from goodspeed_runtime.verifier.outlet import Outlet
from goodspeed_runtime.verifier.session import Session
from goodspeed_runtime.verifier.settings import VerifierSettings

logger = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["Speculation"].full_name
LARGEST_FRAME_BYTES = 16 << 20
MOST_STREAMS = 4096
OPTIONS = [
    ("grpc.max_receive_message_length", LARGEST_FRAME_BYTES),
    ("grpc.max_concurrent_streams", MOST_STREAMS),
    # A drafter that vanished without a word is noticed in some seven seconds.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 5000),
    # The option that counts while the peer's kernel still answers: a process that hangs.
    ("grpc.http2.ping_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Frames are far smaller than the smallest window: probing for more only costs bytes.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.so_reuseport", 0),
]


class SpeculationServer(pb_grpc.SpeculationServicer):  # type: ignore[misc]
    """Serves drafters."""

    def __init__(self, engine: Engine, ledger: Ledger, settings: VerifierSettings, target: Target) -> None:
        self._engine = engine
        self._ledger = ledger
        self._settings = settings
        self._target = target
        self._sessions: set[Session] = set()
        self._names: set[str] = set()
        self._draining = False
        self._outlet = Outlet()
        self._empty = asyncio.Event()
        self._empty.set()
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=OPTIONS)
        pb_grpc.add_SpeculationServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    async def Speculate(self, _: Any, context: Any) -> None:  # noqa: N802 - gRPC's name
        """One drafter's stream."""
        if self._draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this verifier is draining")
        session = Session(self._engine, self._ledger, self._settings, self._target, self._outlet, context)
        self._sessions.add(session)
        self._empty.clear()
        try:
            await session.run(self._names)
        finally:
            self._sessions.discard(session)
            if not self._sessions:
                self._empty.set()

    @property
    def drafters(self) -> int:
        """Streams open now."""
        return len(self._sessions)

    def move(self, drafter: str, verifier: str) -> bool:
        """Sends a drafter to another cell; False when it has no stream here."""
        for session in self._sessions:
            if session.drafter == drafter:
                session.drain("moved", verifier)
                return True
        return False

    async def start(self, address: str) -> int:
        """Listens on ``host:port``; returns the port.

        Raises:
            OSError: the address cannot be had.
        """
        try:
            port = int(self._server.add_insecure_port(address))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        await self._server.start()
        await self._serving(serving=True)
        return port

    async def _serving(self, *, serving: bool) -> None:
        status = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in ("", SERVICE):
            await self._health.set(service, status)

    async def drain(self, seconds: float) -> None:
        """Sends drafters away and closes; cuts off after ``seconds`` those that stay."""
        self._draining = True
        await self._serving(serving=False)
        for session in list(self._sessions):
            session.drain("shutting down")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        await self._server.stop(0.2)
