"""Answers from prompt to end: opened at the verifier, carried on by its verdicts, and over its losses."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Sequence

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.drafter.answer import Answer, AnswerError, Committed, FinishReason, Grant
from goodspeed_runtime.drafter.drafting import Drafting
from goodspeed_runtime.drafter.engine import DraftEngine
from goodspeed_runtime.drafter.link import Link, ViolationError
from goodspeed_runtime.drafter.settings import DrafterSettings
from goodspeed_runtime.metrics import DrafterMetrics
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import PROTOCOL_VERSION, pack_tokens

logger = logging.getLogger(__name__)

RETRIES = 5
RETRY_SECONDS = 0.2
_FINISH: dict[int, FinishReason | None] = {
    pb.FINISH_NONE: None,
    pb.FINISH_STOP: "stop",
    pb.FINISH_LENGTH: "length",
}
_RETRIED = {
    pb.OVERLOADED,
    pb.DRAINING,
    pb.INTERNAL,
    pb.UNKNOWN_SEQUENCE,
    pb.WRONG_POSITION,
    pb.DUPLICATE_SEQUENCE,
    # Asked for by a tenant of ours: the verifier has yet to be told of it.
    pb.UNKNOWN_TENANT,
}
_BLAMED = {
    pb.PROMPT_TOO_LONG: (400, "context_length_exceeded", "messages"),
    pb.INVALID_SAMPLING: (400, "invalid_value", None),
    pb.INVALID_TOKEN: (400, "invalid_value", "prompt"),
    pb.OVERLOADED: (429, "overloaded", None),
    pb.UNKNOWN_TENANT: (503, "verifier_unavailable", None),
}


class Generation:
    """All answers of this drafter, its draft engine and its link to the verifier."""

    def __init__(
        self,
        settings: DrafterSettings,
        engine: DraftEngine,
        metrics: DrafterMetrics,
        *,
        tokenizer_fingerprint: str,
        vocabulary_size: int,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._answers: dict[int, Answer] = {}
        self._keys = itertools.count(1)
        self._places = asyncio.Semaphore(settings.max_sequences)
        self._waiting = 0
        self._background: set[asyncio.Task[None]] = set()
        self.max_context_tokens = 0
        metrics.places.set(settings.max_sequences)
        self.link = Link(
            settings.verifiers,
            pb.Hello(
                protocol_version=PROTOCOL_VERSION,
                drafter=settings.name,
                pool=settings.pool,
                draft_model=settings.model,
                model_fingerprint=engine.fingerprint,
                tokenizer_fingerprint=tokenizer_fingerprint,
                vocabulary_size=vocabulary_size,
                max_draft_tokens=settings.max_draft_tokens,
                weight=settings.weight,
            ),
            up=self._up,
            down=self._down,
            received=self._received,
            moved=metrics.moves.inc,
            others=settings.cells,
            verification=pb.COUPLED if settings.verification == "coupled" else pb.REJECTION,
        )
        # The link's own method is looked up when it is called.
        self._drafting = Drafting(settings, engine, metrics, lambda frame: self.link.send(frame))

    async def run(self) -> None:
        """Drafts and keeps the link up until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.link.run(), name="link")
            tasks.create_task(self._drafting.run(), name="draft")

    @property
    def active(self) -> int:
        """Answers under way or waiting."""
        return len(self._answers) + self._waiting

    @property
    def request_seconds(self) -> float:
        """Longest time a request may stand still."""
        return self._settings.request_seconds

    async def generate(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling,
        stop_tokens: tuple[int, ...],
        tenant: str = "",
    ) -> AsyncIterator[Committed]:
        """One answer, as its tokens are committed. Closing the iterator ends it at the verifier too.

        Raises:
            AnswerError: it cannot be started or cannot go on.
        """
        if self._places.locked() and self._waiting >= self._settings.max_waiting:
            raise AnswerError(
                429, "overloaded", f"{self._waiting} requests wait for this drafter already; try again later"
            )
        self._waiting += 1
        self._metrics.waiting.set(self._waiting)
        try:
            async with asyncio.timeout(self._settings.request_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise AnswerError(429, "overloaded", "no place became free in time; try again later") from None
        finally:
            self._waiting -= 1
            self._metrics.waiting.set(self._waiting)
        answer = Answer(
            next(self._keys), list(prompt), len(prompt), max_tokens, sampling, stop_tokens, tenant
        )
        self._answers[answer.key] = answer
        self._metrics.sequences.set(len(self._answers))
        try:
            self._open(answer)
            self._drafting.add(answer)
            async for committed in self._events(answer):
                yield committed
        finally:
            self._places.release()
            self._end(answer)

    async def _events(self, answer: Answer) -> AsyncIterator[Committed]:
        last: float | None = None
        started = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self._settings.request_seconds):
                    event = await answer.events.get()
            except TimeoutError:
                what = "no progress" if self.link.connected else "no verifier"
                raise AnswerError(
                    503, "verifier_unavailable", f"{what} for {self._settings.request_seconds:.0f} s"
                ) from None
            if isinstance(event, AnswerError):
                raise event
            now = time.monotonic()
            if last is None:
                self._metrics.first_token_seconds.observe(now - started)
            else:
                for _ in event.tokens:
                    self._metrics.inter_token_seconds.observe((now - last) / len(event.tokens))
            last = now
            yield event
            if event.finish is not None:
                return

    def _end(self, answer: Answer) -> None:
        del self._answers[answer.key]
        self._metrics.sequences.set(len(self._answers))
        self.link.send(pb.DrafterFrame(closes=[pb.Close(sequence=answer.key)]))
        self._drafting.remove(answer)

    def _open(self, answer: Answer) -> None:
        answer.opens += 1
        self._pause(answer)
        answer.opening = True
        sampling = answer.sampling
        message = pb.Open(
            sequence=answer.key,
            tokens=pack_tokens(answer.tokens),
            prompt_tokens=answer.prompt_tokens,
            max_tokens=answer.max_tokens,
            sampling=pb.Sampling(
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                seed=sampling.seed,
            ),
            stop_tokens=pack_tokens(answer.stop_tokens),
            tenant=answer.tenant,
        )
        self.link.send(pb.DrafterFrame(opens=[message]))

    def _pause(self, answer: Answer) -> None:
        """Nothing may be drafted for it until the verifier has opened it."""
        answer.grant = None
        answer.flight = None
        answer.opening = False

    def _up(self, welcome: pb.Welcome) -> None:
        self.max_context_tokens = welcome.max_context_tokens
        self._metrics.connected.set(1)
        self._metrics.reconnects.inc()
        logger.info(
            "welcomed by verifier %s (%s), context %d tokens; opening %d sequences",
            welcome.verifier,
            welcome.target_model,
            welcome.max_context_tokens,
            len(self._answers),
        )
        for answer in self._answers.values():
            self._open(answer)

    def _down(self, reason: str) -> None:
        self._metrics.connected.set(0)
        for answer in self._answers.values():
            self._pause(answer)

    def _received(self, frame: pb.VerifierFrame) -> None:
        for opened in frame.opened:
            answer = self._answers.get(opened.sequence)
            if answer is not None and opened.position == len(answer.tokens):
                answer.opening = False
                self._take(answer, [opened.token], opened)
        for verdict in frame.verdicts:
            answer = self._answers.get(verdict.sequence)
            if answer is not None and verdict.position == len(answer.tokens):
                self._judge(answer, verdict)
        for error in frame.errors:
            answer = self._answers.get(error.sequence)
            if answer is not None:
                self._failed(answer, error)

    def _judge(self, answer: Answer, verdict: pb.Verdict) -> None:
        drafted = answer.flight.tokens if answer.flight is not None else []
        most = 0 if verdict.draft_awaited else len(drafted)
        if verdict.accepted > most:
            raise ViolationError(f"{verdict.accepted} of {most} drafted tokens accepted")
        tokens = drafted[: verdict.accepted]
        if verdict.has_next_token:
            tokens.append(verdict.next_token)
        if not verdict.draft_awaited:
            self._drafting.answered(answer, verdict.accepted, fell=verdict.has_next_token)
        self._take(answer, tokens, verdict)

    def _take(self, answer: Answer, tokens: list[int], reply: pb.Opened | pb.Verdict) -> None:
        if reply.finish not in _FINISH or (not tokens and reply.finish == pb.FINISH_NONE):
            raise ViolationError(f"a reply of {len(tokens)} tokens with finish {reply.finish}")
        answer.retries = 0
        self._drafting.commit(answer, tokens)
        answer.commit(tokens, _FINISH[reply.finish])
        if isinstance(reply, pb.Opened) or not reply.draft_awaited:
            answer.flight = None
            tokens_granted = min(reply.grant, self._settings.max_draft_tokens)
            if tokens_granted and reply.finish == pb.FINISH_NONE:
                answer.grant = Grant(tokens_granted, reply.least_chance / 100, time.monotonic())
        self._drafting.wake()

    def _failed(self, answer: Answer, error: pb.Error) -> None:
        self._pause(answer)
        if error.code in _RETRIED and answer.retries < RETRIES:
            answer.retries += 1
            task = asyncio.create_task(self._reopen(answer, answer.opens, RETRY_SECONDS * 2**answer.retries))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
            return
        status, code, param = _BLAMED.get(error.code, (500, "verifier_error", None))
        answer.events.put_nowait(AnswerError(status, code, error.message, param))

    async def _reopen(self, answer: Answer, opens: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        # A new verifier may have been told of it meanwhile.
        if answer.key in self._answers and self.link.connected and answer.opens == opens:
            self._open(answer)
