"""Who is drafted for, and when: those who hold a grant at once, everyone else ahead of time.

While a verdict is under way the engine goes on from the best guess of it: that
all that was sent stands, and that the engine's own next token follows. What the
verdict confirms is a draft that is ready when its grant comes; the rest is
dropped. Ahead goes one token at a time, so that a grant never waits for more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from goodspeed_runtime.drafter.answer import Answer, Flight, Grant
from goodspeed_runtime.drafter.engine import Draft, DraftEngine, Job
from goodspeed_runtime.drafter.settings import DrafterSettings
from goodspeed_runtime.metrics import DrafterMetrics
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import DraftBlock, pack_draft

logger = logging.getLogger(__name__)

LEAST_CHANCE_AHEAD = 0.05
"""Below it a guess of what comes after the verdict is not worth the electricity."""
MOST_REDONE = 4
"""Times that a draft is made again for one grant."""
_STEP = 0.1
_MOST_US = (1 << 32) - 1


class Drafting:
    """The draft engine's work for all answers of this drafter."""

    def __init__(
        self,
        settings: DrafterSettings,
        engine: DraftEngine,
        metrics: DrafterMetrics,
        send: Callable[[pb.DrafterFrame], None],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._send_frame = send
        self._answers: dict[int, Answer] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="draft")
        self._work = asyncio.Event()
        self._token_seconds = 0.0
        self._rest_seconds = 0.0

    def add(self, answer: Answer) -> None:
        """An answer has begun; its prompt is read while the verifier reads it."""
        self._answers[answer.key] = answer
        self._work.set()

    def remove(self, answer: Answer) -> None:
        """An answer has ended."""
        self._metrics.ahead(0, answer.ahead)
        self._answers.pop(answer.key, None)
        self._thread.submit(self._engine.release, answer.key)

    def wake(self) -> None:
        """Something was committed or granted."""
        self._work.set()

    def commit(self, answer: Answer, tokens: list[int]) -> None:
        """Counts what was guessed ahead by what is about to be committed; call it before `Answer.commit`."""
        flown = len(answer.flight.tokens) if answer.flight is not None else 0
        if answer.guess[: len(tokens)] != tokens:
            self._metrics.ahead(0, answer.ahead)
        elif len(tokens) > flown:
            self._metrics.ahead(min(len(tokens) - flown, answer.ahead), 0)

    def answered(self, answer: Answer, accepted: int, *, fell: bool) -> None:
        """A verdict has answered the draft in flight; ``fell``: the next token was refused."""
        flight = answer.flight
        if flight is None:
            return
        for confidence in flight.confidence[:accepted]:
            self._engine.learn(confidence, True)
        if fell and accepted < len(flight.confidence):
            self._engine.learn(flight.confidence[accepted], False)
        self._rest_seconds = _smoothed(self._rest_seconds, time.monotonic() - flight.sent)

    async def run(self) -> None:
        """Drafts until cancelled."""
        while True:
            self._work.clear()
            if jobs := self._granted():
                await self._draft(jobs, ahead=False)
            elif jobs := self._ahead():
                await self._draft(jobs, ahead=True)
            else:
                await self._work.wait()

    def _granted(self) -> list[Job]:
        return [
            Job(
                answer.key,
                list(answer.tokens),
                answer.grant.tokens,
                answer.sampling,
                answer.grant.least_chance,
                self._token_seconds / self._rest_seconds if self._rest_seconds else 0.0,
                answer.tenant,
            )
            for answer in self._answers.values()
            if answer.grant is not None
        ]

    def _ahead(self) -> list[Job]:
        if not self._settings.draft_ahead:
            return []
        return [
            Job(
                answer.key,
                list(answer.tokens),
                len(answer.guess) + 1,
                answer.sampling,
                LEAST_CHANCE_AHEAD,
                tenant=answer.tenant,
            )
            for answer in self._answers.values()
            if (answer.opening or answer.flight is not None)
            and not answer.exhausted
            and answer.ahead <= self._settings.max_draft_tokens
        ]

    async def _draft(self, jobs: list[Job], *, ahead: bool) -> None:
        started = time.monotonic()
        before = {job.key: len(self._answers[job.key].guess) for job in jobs}
        try:
            drafts = await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.draft, jobs)
        except Exception:
            # Without a draft the verifier decodes plainly: slower, never wrong.
            logger.exception("drafting failed")
            drafts = [Draft(DraftBlock.point_masses(()), []) for _ in jobs]
        seconds = time.monotonic() - started
        fresh = max(len(draft) - before[job.key] for job, draft in zip(jobs, drafts, strict=True))
        if fresh > 0:
            self._token_seconds = _smoothed(self._token_seconds, seconds / fresh)
        self._metrics.draft_seconds.observe(seconds)
        frame = pb.DrafterFrame()
        for job, draft in zip(jobs, drafts, strict=True):
            answer = self._answers.get(job.key)
            if answer is None:
                continue
            grown = answer.believe(len(job.tokens), draft.block.tokens.tolist())
            if ahead:
                answer.exhausted = not grown
            elif answer.grant is not None:
                self._put(answer, job, draft, min(before[job.key], len(draft)), frame, seconds)
        if frame.drafts:
            self._send_frame(frame)

    def _put(
        self,
        answer: Answer,
        job: Job,
        draft: Draft,
        known: int,
        frame: pb.DrafterFrame,
        seconds: float,
    ) -> None:
        """Puts a draft that took ``seconds`` into a frame, less what the verifier has overtaken.

        If that is all, it is redone, where that is quicker than to be asked anew; but a slow drafter would
        run after the verifier for ever, and answers with an empty draft. ``known`` of its tokens were drafted
        ahead.
        """
        overtaken = len(answer.tokens) - len(job.tokens)
        tokens = draft.block.tokens.tolist()
        grant = answer.grant
        assert grant is not None
        agrees = tokens[:overtaken] == answer.tokens[len(job.tokens) :]
        first = overtaken if agrees else len(tokens)
        if overtaken and first >= len(tokens) and self._worth_redoing(grant, seconds):
            grant.redone += 1
            self._work.set()
            return
        now = time.monotonic()
        block = draft.block.part(first, len(tokens))
        answer.flight = Flight(tokens[first:], draft.confidence[first:], now)
        answer.grant = None
        packed, sizes, ids, weights = pack_draft(block)
        frame.drafts.append(
            pb.Draft(
                sequence=answer.key,
                position=len(answer.tokens),
                tokens=packed,
                support_sizes=sizes,
                support_ids=ids,
                support_weights=weights,
                held_us=min(round(1e6 * (now - grant.came)), _MOST_US),
            )
        )
        self._metrics.unused_grant_tokens.inc(max(0, grant.tokens - len(tokens)))
        self._metrics.ahead(known, 0)
        self._work.set()

    def _worth_redoing(self, grant: Grant, seconds: float) -> bool:
        return grant.redone < MOST_REDONE and (not self._rest_seconds or seconds < self._rest_seconds)


def _smoothed(old: float, new: float) -> float:
    return new if not old else old + _STEP * (new - old)
