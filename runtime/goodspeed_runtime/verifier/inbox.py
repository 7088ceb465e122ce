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
        self._commands: deque[tuple[Client, Command]] = deque()
        self._changed = threading.Condition()
        self._stopping = False

    def post(self, client: Client, command: Command) -> None:
        """Leaves a command that a client caused; never blocks for long."""
        with self._changed:
            client.pending += 1
            self._commands.append((client, command))
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
                client, command = self._commands.popleft()
                client.pending -= 1
            command()

    def wait(self, seconds: float | None) -> None:
        """Sleeps until something is left, or for ``seconds``."""
        with self._changed:
            if not self._commands and not self._stopping:
                self._changed.wait(seconds)
