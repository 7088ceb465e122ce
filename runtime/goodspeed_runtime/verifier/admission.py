"""When the next round starts, and who is in it without a draft.

A pass costs nearly the same for one draft as for ten, so a draft that is about
to arrive is worth a wait; one that is late is not: its sequence gets a token
of the verifier's own, and the draft counts later as far as it agrees. Pure:
times and estimates come in, a wait comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
LONGEST_WAIT_SECONDS = 1.0
"""After so long everything is looked at again."""


@dataclass(frozen=True, slots=True)
class View:
    """What is known before a round, in seconds from now and in tokens.

    Attributes:
        ready_tokens: expected of the drafts that have arrived, prefills counted as one token each.
        ready: how many those are.
        alone: sequences that draft nothing, hence get one token each in any round.
        due: float64 `[n]`, when each draft still out should arrive, none negative.
        since: float64 `[n]`, seconds since its grant was sent.
        expected: float64 `[n]`, tokens that a round with that draft commits for its sequence, bonus included.
        acceptance: float64 `[n]`, of a drafted token.
        pass_seconds: of the next pass.
        token_seconds: that one more sequence's own token adds to the round, in the pass and beside it.
        since_round: seconds since the last round's verdicts went out.
        chosen: seconds after those verdicts past which the scheduler waits for no draft; None where it has
            not chosen.
    """

    ready_tokens: float
    ready: int
    alone: int
    due: Floats
    since: Floats
    expected: Floats
    acceptance: Floats
    pass_seconds: float
    token_seconds: float
    since_round: float = 0.0
    chosen: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now.

    Attributes:
        wait: seconds; 0 to start at once, infinite until something changes.
        arrivals: look again as soon as so many more drafts have arrived.
        join: bool `[n]`, which sequences whose drafts are out get a token of the verifier's own.
    """

    wait: float
    arrivals: int
    join: npt.NDArray[np.bool_]


class Admission(Protocol):
    """Decides when rounds start."""

    def decide(self, view: View) -> Decision:
        """What to do, given that there is at least one sequence."""
        ...


class Barrier:
    """The paper's rounds: everyone's draft is in, or nothing is verified."""

    def decide(self, view: View) -> Decision:
        """See `Admission.decide`."""
        out = len(view.due)
        return Decision(np.inf if out else 0.0, max(1, out), np.zeros(out, dtype=bool))


class Continuous:
    """Rounds of what has arrived, begun where most tokens a second come of it."""

    def decide(self, view: View) -> Decision:
        """See `Admission.decide`.

        Three courses are compared by tokens per second. *Wait* for the next j drafts, then one pass. *Now*: a
        pass at once. *Bridge*: a pass at once, in which those whose drafts are out get their own token, and
        the pass with the j drafts after it; of a draft overtaken by one token what is left is worth μ − α.
        """
        join = self._joins(view)
        base = view.ready_tokens + view.alone + int(join.sum())
        if not len(view.due):
            return Decision(0.0, 1, join)
        order = np.argsort(view.due, kind="stable")
        due, expected, acceptance = view.due[order], view.expected[order], view.acceptance[order]
        if view.chosen is not None:
            reachable = int((due <= max(0.0, view.chosen - view.since_round)).sum())
        else:
            reachable = len(due)
        seconds = view.pass_seconds
        waiting = (base + np.cumsum(expected - join[order])) / (due + seconds)
        if base == 0:
            # Nobody could be in a round now: someone's draft arrives, or its patience ends, first.
            first = min(float(due[0]), float(np.min(self._patience(view) - view.since)))
            return Decision(float(np.clip(first, 1e-4, LONGEST_WAIT_SECONDS)), 1, join)
        everyone = view.ready + view.alone + len(due)
        bridged = base + everyone + np.cumsum(expected - acceptance - 1)
        bridge = bridged / (np.maximum(due, seconds) + seconds)
        better = waiting - np.maximum(base / seconds, bridge)
        better[reachable:] = -np.inf
        best = int(np.argmax(np.where(better > 0, waiting, -np.inf))) if (better > 0).any() else -1
        if best < 0:
            return Decision(0.0, 1, join)
        return Decision(min(max(float(due[best]), 1e-4), LONGEST_WAIT_SECONDS), best + 1, join)

    def _patience(self, view: View) -> Floats:
        """Seconds after its grant when a draft has become slower than plain decoding would have been."""
        return np.asarray(view.pass_seconds * np.maximum(view.expected - 1, 0))

    def _joins(self, view: View) -> npt.NDArray[np.bool_]:
        """Whose own token pays: those whose draft is late, and all where a token hardly costs anything.

        A token ahead of a draft adds 1 − α to what the draft alone would have come to, and lengthens the
        pass for everybody.
        """
        late = view.since + view.due > self._patience(view)
        rate = (view.ready_tokens + view.alone + len(view.due)) / view.pass_seconds
        return np.asarray(late | (1 - view.acceptance >= view.token_seconds * rate))
