"""The only door between the event loop and the compute thread.

Commands of the event loop are kept in order and carried out by the compute
thread between two rounds. The event loop never waits for that thread; how many
commands of a client are still undone is told instead, so that its stream is
read no faster than they are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from goodspeed_runtime.verifier.sequence import Client

Command = Callable[[], None]


class Inbox:
    """Commands from any thread to one."""

    def __init__(self) -> None:
        self._commands: deque[tuple[Client, int, Command]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._patience = 0

    def post(self, client: Client, command: Command, drafts: int = 0) -> None:
        """Leaves a command that a client caused; never blocks for long.

        It brings so many drafts, which may wait for others, or something that may not.
        """
        weight = drafts or 1
        with self._changed:
            client.pending += weight
            self._commands.append((client, weight, command))
            self._patience -= drafts or self._patience
            if self._patience <= 0:
                self._changed.notify()

    def stop(self) -> None:
        """Ends the compute thread's waiting for good."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def __len__(self) -> int:
        return len(self._commands)

    def carry_out(self) -> bool:
        """Runs everything that was left; False once stopped. For the compute thread."""
        while True:
            with self._changed:
                if self._stopping or not self._commands:
                    return not self._stopping
                client, weight, command = self._commands.popleft()
                client.pending -= weight
            command()

    def wait(self, seconds: float | None, drafts: int = 1) -> None:
        """Sleeps until so many drafts or anything else is left, or for ``seconds``."""
        with self._changed:
            if not self._commands and not self._stopping:
                self._patience = drafts
                self._changed.wait(seconds)
                self._patience = 0
