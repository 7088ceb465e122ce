"""From committed tokens to the text a user may see: whole characters, cut at stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class TextSource(Protocol):
    """Turns tokens into text as they come."""

    def push(self, token: int) -> str:
        """The text that ``token`` completes."""
        ...


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many of the last characters may be the beginning of a stop string."""
    longest = max((len(stop) for stop in stops), default=0)
    for size in range(min(len(text), longest - 1), 0, -1):
        tail = text[-size:]
        if any(stop.startswith(tail) for stop in stops):
            return size
    return 0


class AnswerText:
    """The text of one answer, released once no stop string can begin in it.

    Attributes:
        stopped: a stop string was found; nothing comes after it.
    """

    def __init__(self, source: TextSource, stops: Sequence[str]) -> None:
        self._source = source
        self._stops = [stop for stop in stops if stop]
        self._pending = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Takes a token; returns the text that may be shown now."""
        if self.stopped:
            return ""
        self._pending += self._source.push(token)
        found = [at for stop in self._stops if (at := self._pending.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._pending = self._pending[: min(found)], ""
            return shown
        keep = held_back(self._pending, self._stops)
        cut = len(self._pending) - keep
        shown, self._pending = self._pending[:cut], self._pending[cut:]
        return shown

    def finish(self) -> str:
        """What was held back, once the answer has ended by itself."""
        rest, self._pending = self._pending, ""
        return rest
