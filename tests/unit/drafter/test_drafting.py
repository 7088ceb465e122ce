"""Who is drafted for: what a draft comes to that the verifier has overtaken while it was being made."""

import asyncio
import contextlib
import threading
import time

import pytest

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.drafter.answer import Answer, Grant
from goodspeed_runtime.drafter.drafting import MOST_REDONE, Drafting
from goodspeed_runtime.drafter.engine import Draft
from goodspeed_runtime.drafter.settings import DrafterSettings
from goodspeed_runtime.metrics import DrafterMetrics
from goodspeed_runtime.protocol.wire import DraftBlock, unpack_tokens

SETTINGS = DrafterSettings(
    name="d",
    pool="p",
    cluster="c",
    model="m",
    target="t",
    verifiers=("v:1",),
    served_model_name="m",
    draft_ahead=False,
)


class Waiting:
    """A draft engine that drafts 7, 8 and 9 for everyone, once it is let go."""

    fingerprint = "waiting"

    def __init__(self) -> None:
        self.calls = 0
        self.begun, self.go = threading.Event(), threading.Event()

    def draft(self, jobs):
        self.calls += 1
        self.begun.set()
        assert self.go.wait(10)
        return [
            Draft(DraftBlock.point_masses([7, 8, 9][: job.grant]), [0.9] * min(3, job.grant)) for job in jobs
        ]

    def learn(self, confidence, stood):
        pass

    def release(self, key):
        pass


@contextlib.asynccontextmanager
async def drafting(engine):
    """The work for one answer, which holds a grant; frames that it sends."""
    frames = asyncio.Queue()
    work = Drafting(SETTINGS, engine, DrafterMetrics("c", "p", "d"), frames.put_nowait)
    answer = Answer(1, [1, 2], 2, 20, Sampling(0.0), ())
    answer.grant = Grant(3, 0.0, time.monotonic())
    work.add(answer)
    running = asyncio.create_task(work.run())
    async with asyncio.timeout(20):
        yield work, answer, frames
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def overtake(work, answer, committed):
    if committed:
        work.commit(answer, committed)
        answer.commit(committed, None)


def content(frame):
    (draft,) = frame.drafts
    return draft.position, unpack_tokens(draft.tokens).tolist()


@pytest.mark.parametrize(
    ("committed", "left"),
    [([], [7, 8, 9]), ([7], [8, 9]), ([7, 8], [9]), ([5], []), ([7, 5], []), ([7, 8, 9], [])],
)
async def test_a_slow_drafter_answers_a_grant_once_with_what_the_verifier_has_not_overtaken(committed, left):
    """Drafting again what other tokens have overtaken would be a race that the slower side goes on losing."""
    engine = Waiting()
    async with drafting(engine) as (work, answer, frames):
        engine.go.set()
        await frames.get()
        # A verdict comes in no time, so being asked again is quicker than any draft.
        work.answered(answer, 0, fell=True)
        overtake(work, answer, [4])
        engine.begun.clear()
        engine.go.clear()
        answer.grant = Grant(3, 0.0, time.monotonic())
        work.wake()
        await asyncio.to_thread(engine.begun.wait, 10)
        await asyncio.sleep(0.3)
        overtake(work, answer, committed)
        engine.go.set()
        assert content(await frames.get()) == (3 + len(committed), left)
        await asyncio.sleep(0.05)
        assert frames.empty()
    assert answer.grant is None
    assert engine.calls == 2


@pytest.mark.parametrize("committed", [[5], [7, 5], [7, 8, 9, 4]])
async def test_where_a_turn_takes_longer_than_a_draft_what_was_overtaken_is_drafted_again(committed):
    engine = Waiting()
    async with drafting(engine) as (work, answer, frames):
        await asyncio.to_thread(engine.begun.wait, 10)
        overtake(work, answer, committed)
        engine.go.set()
        assert content(await frames.get()) == (2 + len(committed), [7, 8, 9])
    assert engine.calls == 2


async def test_a_drafter_that_is_always_overtaken_gives_up():
    class Losing(Waiting):
        def draft(self, jobs):
            drafts = super().draft(jobs)
            overtake(self.work, self.answer, [5])
            return drafts

    engine = Losing()
    async with drafting(engine) as (work, answer, frames):
        engine.work, engine.answer = work, answer
        engine.go.set()
        assert content(await frames.get()) == (2 + 1 + MOST_REDONE, [])
    assert engine.calls == 1 + MOST_REDONE
