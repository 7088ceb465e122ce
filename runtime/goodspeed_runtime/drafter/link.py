"""The drafter's one stream to its verifier, kept up: connect, greet, and again after any loss.

Knows nothing of sequences. Its owner is told when the verifier has welcomed us
and when it is gone, gets every frame, and sends frames that are dropped while
nobody is there, since everything under way is opened anew after a welcome.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.generated import speculation_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

WELCOME_SECONDS = 15.0
FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 3.0
PATIENCE_SECONDS = 15.0
"""Without a verifier for so long, a drafter goes to a cell that is not its own."""
LARGEST_FRAME_BYTES = 16 << 20
COALESCED_BYTES = 4 << 20
"""Frames travel together up to this size, well under what a verifier takes."""
OUTBOX_FRAMES = 4096
_OPTIONS = [
    ("grpc.max_receive_message_length", LARGEST_FRAME_BYTES),
    # A verifier that vanished without a word is noticed in some seven seconds.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 5000),
    # The option that counts while the peer's kernel still answers: a process that hangs.
    ("grpc.http2.ping_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Frames are far smaller than the smallest window: probing for more only costs bytes.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # The back-off is ours: gRPC's own would grow to minutes beside it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Named for a pause, this is how long an attempt may take: two round trips and a lost packet must fit.
    ("grpc.min_reconnect_backoff_ms", 3000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]


class ViolationError(ValueError):
    """A verifier's frame makes no sense; raised by whoever receives it, it ends the stream."""


_FINAL = {pb.VOCABULARY_MISMATCH, pb.PROTOCOL_VERSION_UNSUPPORTED, pb.MALFORMED}


class Link:
    """A stream that is kept up until it is closed.

    Given several cells it starts with one of them by its own name, so that the
    drafters of a pool spread over them, and goes on to the next when one is gone.
    A verifier may send it to any cell that it was told of, by name or address,
    and to no other.

    Attributes:
        address: of the cell it talks to, or tries.
        refusal: the verifier's words when it will not have us, else empty.
        refusals: how often in a row it has said so.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        hello: pb.Hello,
        *,
        up: Callable[[pb.Welcome], None],
        down: Callable[[str], None],
        received: Callable[[pb.VerifierFrame], None],
        moved: Callable[[], None] = lambda: None,
        others: Sequence[str] = (),
        verification: pb.Verification = pb.REJECTION,
    ) -> None:
        self._homes = len(addresses)
        known = [*addresses, *(other for other in others if other not in addresses)]
        self._names = [entry.rpartition("=")[0] for entry in known]
        self._addresses = [entry.rpartition("=")[2] for entry in known]
        self._turn = zlib.crc32(hello.drafter.encode()) % len(addresses)
        self._moved = moved
        self._verification = verification
        self._sent_to: int | None = None
        self._hello = hello
        self._up = up
        self._down = down
        self._received = received
        self._outbox: asyncio.Queue[pb.DrafterFrame] | None = None
        self._full = asyncio.Event()
        self._jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self.refusal = ""
        self.refusals = 0

    @property
    def address(self) -> str:
        """``host:port`` of the cell."""
        return self._addresses[self._turn]

    @property
    def connected(self) -> bool:
        """Whether a verifier has welcomed us."""
        return self._outbox is not None

    def send(self, frame: pb.DrafterFrame) -> None:
        """Sends a frame, or drops it while no verifier is there; one that reads nothing is left."""
        if self._outbox is not None:
            try:
                self._outbox.put_nowait(frame)
            except asyncio.QueueFull:
                self._full.set()

    async def run(self) -> None:
        """Keeps the stream up until cancelled."""
        backoff = FIRST_BACKOFF_SECONDS
        alone_since = time.monotonic()
        while True:
            started = time.monotonic()
            welcomed, reason = await self._once()
            if self._sent_to is not None:
                self._turn, self._sent_to = self._sent_to, None
                logger.info("%s: going to verifier %s", reason, self.address)
                self._moved()
                continue
            # One that welcomes us only to drop us again is hammered no more than one that is not there.
            lasted = welcomed and time.monotonic() - started > LONGEST_BACKOFF_SECONDS
            backoff = FIRST_BACKOFF_SECONDS if lasted else min(2 * backoff, LONGEST_BACKOFF_SECONDS)
            logger.log(
                logging.WARNING if welcomed or self.refusal else logging.INFO,
                "verifier %s: %s; trying again in about %.1f s",
                self.address,
                reason,
                backoff,
            )
            if welcomed:
                alone_since = time.monotonic()
            patient = time.monotonic() - alone_since < PATIENCE_SECONDS
            self._turn = (self._turn + 1) % (self._homes if patient else len(self._addresses))
            await asyncio.sleep(backoff * self._jitter.uniform(0.5, 1.0))

    async def _once(self) -> tuple[bool, str]:
        """One connection from start to end; whether it was welcomed, and why it ended."""
        welcomed = False
        tasks: list[asyncio.Task[Any]] = []
        async with grpc.aio.insecure_channel(self.address, options=_OPTIONS) as channel:
            call = pb_grpc.SpeculationStub(channel).Speculate()
            try:
                async with asyncio.timeout(WELCOME_SECONDS):
                    await call.write(pb.DrafterFrame(hello=self._hello))
                    frame = await call.read()
                if frame is grpc.aio.EOF or not frame.HasField("welcome"):
                    return False, await self._refused(call, frame)
                if frame.welcome.verification != self._verification:
                    theirs, ours = (
                        pb.Verification.Name(rule).lower()
                        for rule in (frame.welcome.verification, self._verification)
                    )
                    return False, self._refuse(
                        f"it verifies by {theirs}, this drafter drafts for {ours}: give both the same "
                        "--verification"
                    )
                self.refusal, self.refusals = "", 0
                welcomed = True
                self._outbox = asyncio.Queue(OUTBOX_FRAMES)
                self._full.clear()
                reading = asyncio.create_task(self._read(call))
                full = asyncio.create_task(self._full.wait())
                tasks += (reading, full, asyncio.create_task(self._write(call, self._outbox)))
                self._up(frame.welcome)
                await asyncio.wait({reading, full}, return_when=asyncio.FIRST_COMPLETED)
                return True, reading.result() if reading.done() else f"{OUTBOX_FRAMES} frames wait to be sent"
            except TimeoutError:
                return welcomed, f"no welcome within {WELCOME_SECONDS:.0f} s"
            except grpc.aio.AioRpcError as error:
                return welcomed, f"{error.code().name}: {error.details()}"
            except asyncio.InvalidStateError:
                return welcomed, "the stream has ended"
            except ViolationError as error:
                logger.exception("the verifier breaks the protocol")
                return welcomed, f"it breaks the protocol: {error}"
            finally:
                self._outbox = None
                for task in tasks:
                    task.cancel()
                call.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if welcomed:
                    self._down("the verifier is gone")

    async def _refused(self, call: Any, frame: Any) -> str:
        """Why there was no welcome."""
        if frame is not grpc.aio.EOF and frame.errors:
            error = frame.errors[0]
            return self._refuse(error.message) if error.code in _FINAL else f"refused: {error.message}"
        return f"{(await call.code()).name}: {await call.details()}"

    def _refuse(self, message: str) -> str:
        self.refusal = message
        self.refusals += 1
        return f"refused: {message}"

    async def _read(self, call: Any) -> str:
        while True:
            frame = await call.read()
            if frame is grpc.aio.EOF:
                return f"{(await call.code()).name}: {await call.details()}"
            self._received(frame)
            if frame.HasField("drain"):
                wanted = frame.drain.verifier
                if wanted and wanted in self._names:
                    self._sent_to = self._names.index(wanted)
                elif wanted in self._addresses:
                    self._sent_to = self._addresses.index(wanted)
                elif wanted:
                    logger.warning("asked to go to %s, which is no cell of ours", wanted)
                return f"asked to leave: {frame.drain.reason}"

    async def _write(self, call: Any, outbox: asyncio.Queue[pb.DrafterFrame]) -> None:
        try:
            later: pb.DrafterFrame | None = None
            while True:
                frame, later = later or await outbox.get(), None
                size = frame.ByteSize()
                while later is None and not outbox.empty():
                    later = outbox.get_nowait()
                    size += later.ByteSize()
                    # A verifier takes the closes of a frame first: what they end must have gone before.
                    if size <= COALESCED_BYTES and not (later.closes and (frame.opens or frame.drafts)):
                        frame.MergeFrom(later)
                        later = None
                await call.write(frame)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the reader of the same call learns why
