"""A queue of keys to reconcile: level-triggered, one worker a key at a time.

Adding a key that waits already does nothing; adding one that is being worked
on brings it back once the worker is done. Failures back off per key, with
jitter, so that a broken cluster costs only itself.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 60.0


class WorkQueue(Generic[Key]):
    """Keys that are due, keys that are due later, and keys being worked on.

    Every key is held at most once, so the queue is bounded by the number of
    distinct keys. For one event loop only.
    """

    def __init__(self, *, jitter: random.Random | None = None) -> None:
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._working: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._order = itertools.count()
        self._changed = asyncio.Event()
        self._jitter = jitter or random.Random()  # noqa: S311 - spreads retries, guards nothing

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: Key, *, after: float = 0.0) -> None:
        """Asks for ``key`` to be worked on in ``after`` seconds, or sooner if already asked."""
        due = asyncio.get_running_loop().time() + after
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._changed.set()

    async def get(self) -> Key:
        """The next key that is due and that no worker holds. Pair with ``done``."""
        while True:
            self._changed.clear()
            key, wait = self._pop()
            if key is not None:
                return key
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _pop(self) -> tuple[Key | None, float | None]:
        now = asyncio.get_running_loop().time()
        held: list[tuple[float, int, Key]] = []
        found: Key | None = None
        wait: float | None = None
        while self._heap:
            due, order, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)
                continue
            if due > now:
                wait = due - now
                break
            heapq.heappop(self._heap)
            if key in self._working:
                held.append((due, order, key))
                continue
            del self._due[key]
            self._working.add(key)
            found = key
            break
        for entry in held:
            heapq.heappush(self._heap, entry)
        return found, wait

    def done(self, key: Key) -> None:
        """The worker has finished with ``key``."""
        self._working.discard(key)
        self._changed.set()

    def retry(self, key: Key) -> float:
        """Asks for ``key`` again after a failure; returns the seconds until then."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        ceiling = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures, 16))
        delay = ceiling * (0.5 + 0.5 * self._jitter.random())
        self.add(key, after=delay)
        return delay

    def succeeded(self, key: Key) -> None:
        """Forgets the failures of ``key``."""
        self._failures.pop(key, None)
