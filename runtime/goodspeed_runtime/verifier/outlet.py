"""The way from the compute thread to the event loop, which is woken once for all frames of a round."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from goodspeed_runtime.protocol.generated import speculation_pb2 as pb

Enqueue = Callable[[pb.VerifierFrame], None]


class Outlet:
    """Hands frames from any thread to sessions of one event loop, in order."""

    def __init__(self) -> None:
        """Belongs to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._frames: list[tuple[Enqueue, pb.VerifierFrame]] = []

    def put(self, enqueue: Enqueue, frame: pb.VerifierFrame) -> None:
        """Has ``enqueue`` called with the frame in the loop; never blocks for long."""
        with self._lock:
            self._frames.append((enqueue, frame))
            asleep = len(self._frames) == 1
        if asleep:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
                self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        with self._lock:
            frames, self._frames = self._frames, []
        for enqueue, frame in frames:
            enqueue(frame)
