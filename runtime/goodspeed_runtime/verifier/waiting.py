"""Sequences that wait for a KV slot, and who is next.

A slot that comes free goes to the drafter that holds the fewest, and among its
sequences to the oldest: a drafter with a hundred requests delays its own.
"""

from __future__ import annotations

from collections import deque

from goodspeed_runtime.verifier.sequence import Client, Sequence


class WaitingRoom:
    """One queue per drafter."""

    def __init__(self) -> None:
        self._queues: dict[Client, deque[Sequence]] = {}

    def add(self, sequence: Sequence) -> None:
        """Lets a sequence wait behind its drafter's others."""
        self._queues.setdefault(sequence.client, deque()).append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """A sequence that waits no longer; one that does not wait is fine."""
        queue = self._queues.get(sequence.client)
        if queue is None or sequence not in queue:
            return
        queue.remove(sequence)
        if not queue:
            del self._queues[sequence.client]

    def waiting(self, client: Client) -> int:
        """How many sequences of a drafter wait."""
        return len(self._queues.get(client, ()))

    def next(self) -> Sequence | None:
        """The sequence that the next slot is for; it stays until it is removed."""
        if not self._queues:
            return None

        def turn(client: Client) -> tuple[int, float]:
            held = len(client.sequences) - len(self._queues[client])
            return held, self._queues[client][0].arrived

        return self._queues[min(self._queues, key=turn)][0]
