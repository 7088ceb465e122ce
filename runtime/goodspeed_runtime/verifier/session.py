"""One drafter's stream: its hello, its frames checked, its answers sent.

A message that is wrong on its own is refused here, before the compute thread
hears of it. The stream is read no faster than that thread works, and a drafter
that does not read its answers is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import grpc

from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import PROTOCOL_VERSION
from goodspeed_runtime.verifier.engine import Engine
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.messages import (
    RefusedError,
    Target,
    check_drafts,
    check_hello,
    check_open,
)
from goodspeed_runtime.verifier.outlet import Outlet
from goodspeed_runtime.verifier.sequence import Account, Client
from goodspeed_runtime.verifier.settings import VerifierSettings

logger = logging.getLogger(__name__)

HELLO_SECONDS = 10.0
LEAVE_SECONDS = 5.0
LAST_WORDS_SECONDS = 2.0
OUTBOX_FRAMES = 1024
PENDING_COMMANDS = 1024
"""Of one client; its stream is not read while more wait for the compute thread."""
FRAME_MESSAGES = 16384
_SECONDS_TO_LOOK_AGAIN = 0.002


class Session:
    """A stream from hello to end; one task reads, one writes."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        settings: VerifierSettings,
        target: Target,
        outlet: Outlet,
        context: Any,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._settings = settings
        self._target = target
        self._outlet = outlet
        self._context = context
        self._outbox: asyncio.Queue[pb.VerifierFrame] = asyncio.Queue(OUTBOX_FRAMES)
        self._loop = asyncio.get_running_loop()
        self._overflow = asyncio.Event()
        self._overdue = asyncio.Event()
        self._client: Client | None = None

    async def run(self, taken: set[str]) -> None:
        """Serves the stream until either side ends it.

        Args:
            taken: names of the drafters with a stream now; ours is in it for as long as this runs.
        """
        try:
            hello = await self._hello(taken)
        except RefusedError as error:
            logger.warning("refused a drafter: %s", error)
            self._ledger.error(error.code)
            await self._context.write(error.frame())
            await self._context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            return
        client = Client(
            name=hello.drafter,
            pool=hello.pool,
            account=Account(hello.drafter, hello.weight),
            max_draft_tokens=min(hello.max_draft_tokens, self._settings.max_draft_tokens),
            deliver=self._deliver,
        )
        self._client = client
        taken.add(client.name)
        self._engine.attach(client)
        tasks: list[asyncio.Task[Any]] = []
        try:
            await self._context.write(self._welcome())
            reading = asyncio.create_task(self._read(client))
            tasks += (
                reading,
                asyncio.create_task(self._write()),
                asyncio.create_task(self._overflow.wait()),
                asyncio.create_task(self._overdue.wait()),
            )
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._engine.detach(client)
            taken.discard(client.name)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # Whoever reads nothing does not read why either: its last words wait behind all that it has not read.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self._conclude(reading)

    async def _conclude(self, reading: asyncio.Task[None]) -> None:
        """Tells the drafter why its stream has ended, unless it knows."""
        if self._overflow.is_set():
            await self._context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{OUTBOX_FRAMES} frames wait to be read"
            )
        error = None if reading.cancelled() else reading.exception()
        if isinstance(error, RefusedError):
            logger.warning("ended a stream: %s", error)
            self._ledger.error(error.code)
            await self._context.write(error.frame())
            await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        elif error is not None and not self._context.cancelled():
            logger.error("a stream failed", exc_info=error)
            await self._context.abort(grpc.StatusCode.INTERNAL, "the verifier has a fault; its log says more")

    async def _hello(self, taken: set[str]) -> pb.Hello:
        try:
            frame = await asyncio.wait_for(self._context.read(), HELLO_SECONDS)
        except TimeoutError:
            raise RefusedError(pb.MALFORMED, f"no hello within {HELLO_SECONDS:.0f} s") from None
        if frame is grpc.aio.EOF or not frame.HasField("hello"):
            raise RefusedError(pb.MALFORMED, "the first frame must carry hello")
        check_hello(frame.hello, self._target)
        if frame.hello.drafter in taken:
            raise RefusedError(
                pb.OVERLOADED, f"a drafter named {frame.hello.drafter!r} has a stream here; names are unique"
            )
        hello: pb.Hello = frame.hello
        return hello

    def _welcome(self) -> pb.VerifierFrame:
        settings, target = self._settings, self._target
        return pb.VerifierFrame(
            welcome=pb.Welcome(
                protocol_version=PROTOCOL_VERSION,
                verifier=settings.name,
                target_model=settings.target_model,
                model_fingerprint=target.model_fingerprint,
                tokenizer_fingerprint=target.tokenizer_fingerprint,
                vocabulary_size=target.vocabulary_size,
                max_context_tokens=settings.max_context_tokens,
                verification=pb.COUPLED if settings.verification == "coupled" else pb.REJECTION,
            )
        )

    async def _read(self, client: Client) -> None:
        """Reads to the stream's end.

        Raises:
            RefusedError: the stream itself breaks the protocol.
        """
        settings, ids, tenants = self._settings, self._target.model_ids, self._engine.tenants
        while True:
            # Rare, and the compute thread has better to do than to wake us.
            while client.pending > PENDING_COMMANDS:  # noqa: ASYNC110
                await asyncio.sleep(_SECONDS_TO_LOOK_AGAIN)
            frame = await self._context.read()
            if frame is grpc.aio.EOF:
                return
            self._ledger.received(frame.ByteSize())
            count = len(frame.closes) + len(frame.opens) + len(frame.drafts)
            if count > FRAME_MESSAGES:
                raise RefusedError(
                    pb.MALFORMED, f"a frame of {count} messages; send at most {FRAME_MESSAGES} at once"
                )
            for close in frame.closes:
                self._engine.close(client, close.sequence)
            for message in frame.opens:
                with self._refusing(client):
                    self._engine.open(check_open(message, client, tenants, ids, settings.max_context_tokens))
                await asyncio.sleep(0)  # a frame of many prompts must not keep other streams waiting
            if frame.drafts:
                arrivals, refusals = check_drafts(frame.drafts, ids, settings.max_draft_tokens)
                for error in refusals:
                    with self._refusing(client):
                        raise error
                if arrivals:
                    self._engine.draft(client, arrivals)

    @contextlib.contextmanager
    def _refusing(self, client: Client) -> Iterator[None]:
        """A refusal ends its sequence; one of sequence 0 ends the stream."""
        try:
            yield
        except RefusedError as error:
            if error.sequence == 0:
                raise
            self._engine.refuse(client, error.sequence, error.code, str(error))

    async def _write(self) -> None:
        while True:
            frame = await self._outbox.get()
            while not self._outbox.empty():
                frame.MergeFrom(self._outbox.get_nowait())
            await self._context.write(frame)

    def _deliver(self, frame: pb.VerifierFrame) -> None:
        self._outlet.put(self._enqueue, frame)

    def _enqueue(self, frame: pb.VerifierFrame) -> None:
        try:
            self._outbox.put_nowait(frame)
        except asyncio.QueueFull:
            self._overflow.set()

    @property
    def drafter(self) -> str:
        """Its name; empty until it has been welcomed."""
        return "" if self._client is None else self._client.name

    def drain(self, reason: str, verifier: str = "") -> None:
        """Asks the drafter to go, to ``verifier`` or wherever it likes; one that stays is cut off."""
        if self._client is not None:
            self._engine.send_away(self._client, pb.Drain(verifier=verifier, reason=reason))
            self._loop.call_later(LEAVE_SECONDS, self._overdue.set)
