"""One drafter's stream: its hello, its frames checked, its answers sent.

Everything that can be wrong with a message on its own is refused here, before
the compute thread hears of it; what depends on a sequence's state is the
engine's to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import DraftBlock, WireError, unpack_draft, unpack_tokens
from goodspeed_runtime.verifier.engine import Engine
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.sequence import Client, Sequence
from goodspeed_runtime.verifier.settings import VerifierSettings

logger = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
HELLO_SECONDS = 10.0
OUTBOX_FRAMES = 4096
_NAME_LIMIT = 253


@dataclass(frozen=True, slots=True)
class Target:
    """What drafters must agree with."""

    model_fingerprint: str
    tokenizer_fingerprint: str
    vocabulary_size: int


class RefusedError(Exception):
    """A message breaks the protocol; ``sequence`` 0 ends the stream."""

    def __init__(self, code: pb.ErrorCode, message: str, sequence: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.sequence = sequence

    def frame(self) -> pb.VerifierFrame:
        """The error as the drafter gets it."""
        return pb.VerifierFrame(errors=[pb.Error(sequence=self.sequence, code=self.code, message=str(self))])


def check_hello(hello: pb.Hello, target: Target) -> None:
    """Whether a drafter can work with this target.

    Raises:
        RefusedError: it cannot; the message names what differs on both sides.
    """
    if hello.protocol_version != PROTOCOL_VERSION:
        raise RefusedError(
            pb.PROTOCOL_VERSION_UNSUPPORTED,
            f"the drafter speaks protocol version {hello.protocol_version}, this verifier {PROTOCOL_VERSION}",
        )
    if not 0 < len(hello.drafter) <= _NAME_LIMIT or len(hello.pool) > _NAME_LIMIT:
        raise RefusedError(pb.MALFORMED, f"hello.drafter must be a name of 1 to {_NAME_LIMIT} characters")
    if not (math.isfinite(hello.weight) and hello.weight > 0):
        raise RefusedError(pb.MALFORMED, f"hello.weight is {hello.weight}; it must be a positive number")
    mine = (target.vocabulary_size, target.tokenizer_fingerprint)
    theirs = (hello.vocabulary_size, hello.tokenizer_fingerprint)
    if mine != theirs:
        raise RefusedError(
            pb.VOCABULARY_MISMATCH,
            f"drafter {hello.drafter!r} ({hello.draft_model}) has a vocabulary of {theirs[0]} ids, tokenizer "
            f"{theirs[1] or 'unnamed'}; the target has {mine[0]} ids, tokenizer {mine[1]}: "
            "choose a draft model with the target's tokenizer",
        )


def check_open(message: pb.Open, client: Client, vocabulary_size: int, max_context: int) -> Sequence:
    """A sequence from the network, checked.

    Raises:
        RefusedError: something in it cannot be.
    """
    key = message.sequence
    if key == 0:
        raise RefusedError(pb.MALFORMED, "open.sequence must not be 0")
    try:
        tokens = unpack_tokens(message.tokens)
        stops = unpack_tokens(message.stop_tokens)
    except WireError as error:
        raise RefusedError(pb.MALFORMED, f"open: {error}", key) from error
    if tokens.size == 0 or not 0 < message.prompt_tokens <= tokens.size:
        raise RefusedError(
            pb.MALFORMED,
            f"open.prompt_tokens is {message.prompt_tokens} of {tokens.size} tokens; it must be 1 or more",
            key,
        )
    if int(tokens.max()) >= vocabulary_size:
        raise RefusedError(
            pb.INVALID_TOKEN,
            f"open.tokens holds {int(tokens.max())}, outside the vocabulary of {vocabulary_size}",
            key,
        )
    if tokens.size >= max_context:
        raise RefusedError(
            pb.PROMPT_TOO_LONG,
            f"{tokens.size} tokens leave no room in a context of {max_context}: send fewer",
            key,
        )
    if tokens.size - message.prompt_tokens >= message.max_tokens:
        raise RefusedError(
            pb.MALFORMED,
            f"open.max_tokens is {message.max_tokens}, and {tokens.size - message.prompt_tokens} tokens are "
            "committed already",
            key,
        )
    wish = message.sampling
    try:
        sampling = Sampling(wish.temperature, wish.top_k, wish.top_p, wish.seed)
    except ValueError as error:
        raise RefusedError(pb.INVALID_SAMPLING, f"open.sampling: {error}", key) from error
    return Sequence(
        client=client,
        key=key,
        tokens=tokens.tolist(),
        prompt_tokens=message.prompt_tokens,
        max_tokens=message.max_tokens,
        sampling=sampling,
        stop_tokens=frozenset(stops.tolist()),
        arrived=time.monotonic(),
    )


def check_draft(message: pb.Draft, vocabulary_size: int) -> DraftBlock:
    """A draft from the network, checked but for what the sequence's state decides.

    Raises:
        RefusedError: its bytes or ids cannot be.
    """
    key = message.sequence
    try:
        draft = unpack_draft(
            message.tokens, message.support_sizes, message.support_ids, message.support_weights
        )
    except WireError as error:
        code = pb.INVALID_DISTRIBUTION if "support" in str(error) else pb.MALFORMED
        raise RefusedError(code, f"draft: {error}", key) from error
    for name, ids in (("tokens", draft.tokens), ("support_ids", draft.support_ids)):
        if ids.size and int(np.max(ids)) >= vocabulary_size:
            raise RefusedError(
                pb.INVALID_TOKEN,
                f"draft.{name} holds {int(np.max(ids))}, outside the vocabulary of {vocabulary_size}",
                key,
            )
    return draft


class Session:
    """A stream from hello to end; one task reads, one writes."""

    def __init__(
        self, engine: Engine, ledger: Ledger, settings: VerifierSettings, target: Target, context: Any
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._settings = settings
        self._target = target
        self._context = context
        self._outbox: asyncio.Queue[pb.VerifierFrame] = asyncio.Queue(OUTBOX_FRAMES)
        self._loop = asyncio.get_running_loop()
        self._overflow = asyncio.Event()
        self.client: Client | None = None

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
            weight=hello.weight,
            max_draft_tokens=min(hello.max_draft_tokens, self._settings.max_draft_tokens),
            deliver=self._deliver,
        )
        self.client = client
        taken.add(client.name)
        self._engine.attach(client)
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._read(client)),
            asyncio.create_task(self._write()),
        ]
        tasks.append(asyncio.create_task(self._overflow.wait()))
        try:
            await self._context.write(self._welcome())
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._engine.detach(client)
            taken.discard(client.name)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._overflow.is_set():
            await self._context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{OUTBOX_FRAMES} frames wait to be read"
            )

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
                verification=pb.REJECTION,
            )
        )

    async def _read(self, client: Client) -> None:
        while True:
            frame = await self._context.read()
            if frame is grpc.aio.EOF:
                return
            for close in frame.closes:
                self._engine.close(client, close.sequence)
            for message in frame.opens:
                with self._refusing(client):
                    self._engine.open(
                        check_open(
                            message, client, self._target.vocabulary_size, self._settings.max_context_tokens
                        )
                    )
            for message in frame.drafts:
                with self._refusing(client):
                    draft = check_draft(message, self._target.vocabulary_size)
                    self._engine.draft(client, message.sequence, message.position, draft)

    @contextlib.contextmanager
    def _refusing(self, client: Client) -> Any:
        try:
            yield
        except RefusedError as error:
            self._ledger.error(error.code)
            self._engine.close(client, error.sequence)
            self._enqueue(error.frame())

    async def _write(self) -> None:
        while True:
            frame = await self._outbox.get()
            while not self._outbox.empty():
                frame.MergeFrom(self._outbox.get_nowait())
            await self._context.write(frame)

    def _deliver(self, frame: pb.VerifierFrame) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._enqueue, frame)

    def _enqueue(self, frame: pb.VerifierFrame) -> None:
        try:
            self._outbox.put_nowait(frame)
        except asyncio.QueueFull:
            self._overflow.set()

    def drain(self, reason: str) -> None:
        """Asks the drafter to go elsewhere."""
        self._enqueue(pb.VerifierFrame(drain=pb.Drain(reason=reason)))
