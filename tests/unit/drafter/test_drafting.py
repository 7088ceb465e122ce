"""Who is drafted for: what a draft comes to that the verifier has overtaken while it was being made."""

import asyncio
import contextlib
import threading
import time

import pytest

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.drafter.answer import Answer, Grant
from goodspeed_runtime.drafter.drafting import Drafting
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


@pytest.mark.parametrize(
    ("committed", "position", "left"),
    [
        ([], 2, [7, 8, 9]),
        ([7], 3, [8, 9]),
        ([5], 3, []),
        ([7, 5], 4, []),
        ([7, 8, 9], 5, []),
        ([7, 8, 9, 4], 6, []),
    ],
)
async def test_a_grant_is_answered_once_with_what_the_verifier_has_not_overtaken(committed, position, left):
    """Drafting again what other tokens have overtaken would be a race that the slower side goes on losing."""
    engine, sent, answered = Waiting(), [], asyncio.Event()

    def send(frame):
        sent.append(frame)
        answered.set()

    drafting = Drafting(SETTINGS, engine, DrafterMetrics("c", "p", "d"), send)
    answer = Answer(1, [1, 2], 2, 20, Sampling(0.0), ())
    answer.grant = Grant(3, 0.0, time.monotonic())
    drafting.add(answer)
    running = asyncio.create_task(drafting.run())
    await asyncio.to_thread(engine.begun.wait, 10)
    if committed:
        drafting.commit(answer, committed)
        answer.commit(committed, None)
    engine.go.set()
    async with asyncio.timeout(10):
        await answered.wait()
    await asyncio.sleep(0.05)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    (frame,) = sent
    (draft,) = frame.drafts
    assert (draft.position, unpack_tokens(draft.tokens).tolist()) == (position, left)
    assert answer.grant is None
    assert engine.calls == 1
