"""How long a container that ended waits before it starts again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubling delays, forgotten once a run has lasted; seconds throughout.

    Shorter than a kubelet's (10 s to 300 s): on one machine there is no image to
    pull and somebody is watching.
    """

    first: float = 0.5
    limit: float = 30.0
    lasting: float = 60.0

    def crashes(self, before: int, ran: float) -> int:
        """Crashes in a row, counting the one that ended a run of `ran` seconds."""
        return 1 if ran >= self.lasting else before + 1

    def delay(self, crashes: int) -> float:
        """The wait after that many crashes in a row, at least one."""
        return min(self.limit, self.first * 2.0 ** min(crashes - 1, 30))
