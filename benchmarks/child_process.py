"""Processes that a benchmark starts, none of which can make it hang."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

_LEAVE_SECONDS = 10.0
_LAST_LINES = 12


class ChildError(RuntimeError):
    """A process has ended, or said nothing in time; the message ends with its last words."""


def leave_with_parent() -> None:
    """Ends this process when its standard input does: whoever held the other end is gone, however it went."""

    def watch() -> None:
        # Not through sys.stdin: its lock is held while it waits, and an interpreter that leaves wants it.
        while os.read(sys.stdin.fileno(), 1 << 16):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Child:
    """A process of its own that may speak JSON, an object a line, on its standard streams."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # With whatever it starts, so that all of it can be ended together.
            start_new_session=True,
            env=os.environ | dict(environment),
        )
        self._heard: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # Libraries print there too.
            if line.startswith('{"'):
                with contextlib.suppress(json.JSONDecodeError):
                    self._heard.put(json.loads(line))
        self._heard.put(None)

    def say(self, message: Mapping[str, Any]) -> None:
        """Sends a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ChildError(self._last_words()) from error

    def hear(self, end: float) -> dict[str, Any] | None:
        """The next line; None when the process has ended well.

        Raises:
            ChildError: nothing by ``end``, in monotonic seconds, or the process has failed.
        """
        try:
            heard = self._heard.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise ChildError(f"out of time: {self._last_words()}") from None
        if heard is None:
            self._heard.put(None)
            if self._process.wait(_LEAVE_SECONDS):
                raise ChildError(self._last_words())
        return heard

    def wait_ready(self, url: str, end: float) -> None:
        """Until ``url`` answers 200.

        Raises:
            ChildError: not by ``end``, or the process has ended.
        """
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(url, timeout=5).status_code == 200:
                    return
            if self._process.poll() is not None:
                raise ChildError(self._last_words())
            if time.monotonic() > end:
                raise ChildError(f"not ready in time: {self._last_words()}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Asks it to end, and ends it and all that it has started."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_LEAVE_SECONDS)

    def _last_words(self) -> str:
        self._log.flush()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        words = "\n".join(lines[-_LAST_LINES:]) if lines else "without a word"
        return f"ended with {self._process.poll()}: {words}"
