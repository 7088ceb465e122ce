"""One child process: its own session, its log, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections import deque
from pathlib import Path

from goodspeed_operator.local.container import Command, ContainerError
from goodspeed_operator.local.tether import Tether, die_with_parent

_TAIL_BYTES = 64 << 10


class Child:
    """A running process group; made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, tether: Tether) -> None:
        self._process = process
        self._tether = tether

    @classmethod
    async def start(cls, command: Command, tether: Tether, log: Path | None) -> Child:
        """Starts a command.

        Args:
            command: what to run.
            tether: ends it if this process is killed.
            log: file that output is appended to; None leaves standard error where it
                is, for what somebody should watch.

        Raises:
            ContainerError: there is no such program.
        """
        program = shutil.which(command.argv[0], path=command.variable("PATH"))
        if program is None:
            raise ContainerError(
                f"{command.argv[0]} is not installed beside goodspeed: pip install 'goodspeed[runtime]'"
            )
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("ab")) if log else None
            process = await asyncio.create_subprocess_exec(
                program,
                *command.argv[1:],
                env=dict(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=output or subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        tether.hold(process.pid)
        return cls(process, tether)

    @property
    def pid(self) -> int:
        """Of the process that leads the group."""
        return self._process.pid

    async def wait(self) -> int:
        """Waits for the end; negative is the signal that caused it. Its own children end with it."""
        code = await self._process.wait()
        self._signal(signal.SIGKILL)
        self._tether.let_go(self.pid)
        return code

    async def stop(self, grace: float) -> int:
        """SIGTERM, then after `grace` seconds SIGKILL; waits for the end."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace):
                    await self._process.wait()
            except TimeoutError:
                self._signal(signal.SIGKILL)
        return await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log, empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return "\n".join(deque(file.read().decode(errors="replace").splitlines(), maxlen=lines))
    except OSError:
        return ""


def ended(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
