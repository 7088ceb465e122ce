"""Sequences that wait for a KV slot, and who is next.

A slot that comes free goes to the account (a tenant, or a drafter) that holds
the fewest for its weight, and among its sequences to the oldest: one with a
hundred requests delays its own. One that was preempted is its account's next:
what has begun is finished first.
"""

from __future__ import annotations

from collections import deque

from goodspeed_runtime.verifier.sequence import Account, Client, Sequence


class WaitingRoom:
    """One queue per account."""

    def __init__(self) -> None:
        self._queues: dict[Account, deque[Sequence]] = {}
        self._counts: dict[Client, int] = {}

    def add(self, sequence: Sequence) -> None:
        """Lets a sequence wait behind its account's others."""
        self._queues.setdefault(sequence.account, deque()).append(sequence)
        self._counts[sequence.client] = self.waiting(sequence.client) + 1

    def put_back(self, sequence: Sequence) -> None:
        """Lets a sequence wait before its account's others."""
        self.add(sequence)
        self._queues[sequence.account].rotate(1)

    def remove(self, sequence: Sequence) -> None:
        """A sequence that waits no longer; one that does not wait is fine."""
        queue = self._queues.get(sequence.account)
        if queue is None or sequence not in queue:
            return
        queue.remove(sequence)
        if not queue:
            del self._queues[sequence.account]
        self._counts[sequence.client] -= 1
        if not self._counts[sequence.client]:
            del self._counts[sequence.client]

    def __bool__(self) -> bool:
        return bool(self._queues)

    def waiting(self, client: Client) -> int:
        """How many sequences of a drafter wait."""
        return self._counts.get(client, 0)

    def turns(self, now: float) -> list[Sequence]:
        """The first of each account, in the order in which slots are for them; all stay until removed.

        Those whose account holds the fewest for its weight come first, and of these who has waited longest,
        times the weight.

        Args:
            now: monotonic seconds.
        """

        def turn(account: Account) -> tuple[float, float]:
            return account.held / account.weight, (self._queues[account][0].since - now) * account.weight

        return [self._queues[account][0] for account in sorted(self._queues, key=turn)]
