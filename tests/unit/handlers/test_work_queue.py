"""The queue of clusters to reconcile: each key once, one worker a key, back-off per key."""

from __future__ import annotations

import asyncio
import random

import pytest

from goodspeed_operator.handlers.queue import LONGEST_RETRY_SECONDS, WorkQueue


async def test_a_key_added_many_times_is_worked_on_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(5):
        queue.add("a")
    assert await queue.get() == "a"
    assert len(queue) == 0


async def test_a_key_added_while_it_is_worked_on_comes_back_when_the_worker_is_done() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    queue.done("a")
    assert await asyncio.wait_for(waiting, 1) == "a"


async def test_a_busy_key_does_not_hold_up_another() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.add("b")
    assert await asyncio.wait_for(queue.get(), 1) == "b"


async def test_a_sooner_request_overtakes_a_later_one_and_not_the_other_way_round() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", after=60)
    queue.add("a")
    queue.add("a", after=60)
    assert await asyncio.wait_for(queue.get(), 1) == "a"
    queue.done("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.02)


async def test_failures_of_a_key_back_off_up_to_a_limit_and_success_forgets_them() -> None:
    queue: WorkQueue[str] = WorkQueue(jitter=random.Random(1))
    delays = [queue.retry("a") for _ in range(12)]
    assert delays[0] < 1
    assert delays[0] < delays[4] < delays[7]
    assert max(delays) <= LONGEST_RETRY_SECONDS
    queue.succeeded("a")
    assert queue.retry("a") < 1
