"""How fast a cell's sequences go round, in tokens per second: the model of rounds behind expected gains.

A sequence's cycle is a draft on its way and the round that verifies it. Behind a barrier every cycle is one
round: the longest way, and a pass. Without it the verifier waits after a round for the drafts that are worth
it (`verifier/admission.py`), so a round takes D, the way of the last of these, and a pass, whose time follows
from the tokens in it. A draft that takes longer than D is verified by a later round, and where it pays its
sequence gets the verifier's own tokens in the rounds before. Rounds and what is in them determine each other;
a fixed point is looked for. All cells are reckoned at once, the drafters of each in up to `GROUPS` groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.rebalancing.costs import PassCosts
from goodspeed_runtime.scheduling.arrays import Flags, Floats, Integers

GROUPS = 16
_STEPS = 30
_COUNTED = 10
"""Of the last steps the mean is taken: a cell may hover between two ways to go on."""
_CLOSE = 1e-5
_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Runners:
    """What the drafters of all cells put in, one row a drafter.

    Attributes:
        cells: int64 `[n]`, where they are.
        sequences: float64 `[n]`, under way.
        acceptance: float64 `[n]`, α, below 1.
        lengths: float64 `[n]`, tokens in a draft, at least 1.
        shares: float64 `[n]`, of the cycles with a draft; in the others the verifier decodes alone.
        ways: float64 `[n]`, seconds from a verdict to the next draft's arrival.
    """

    cells: Integers
    sequences: Floats
    acceptance: Floats
    lengths: Floats
    shares: Floats
    ways: Floats


def expected(acceptance: Floats, lengths: Floats) -> Floats:
    """mu(S); straight between whole lengths, as a mixture of the two is."""
    whole = np.floor(lengths)
    return np.asarray(
        (1 - acceptance ** (whole + 1)) / (1 - acceptance) + (lengths - whole) * acceptance ** (whole + 1)
    )


def rates(
    runners: Runners, costs: PassCosts, begin: Floats, *, barrier: bool, waits: Floats | None = None
) -> tuple[Floats, Floats]:
    """Tokens per second of every drafter, float64 `[n]`, and seconds of a cell's passes, float64 `[c]`.

    Args:
        runners: the drafters.
        costs: of passes.
        begin: float64 `[c]`, seconds of a pass where the search begins. More than one way to go on may last:
            passes that are long, because drafts are waited for because passes are long; or short ones.
        barrier: rounds wait for every draft.
        waits: float64 `[c]`, D where it is known rather than to be found.
    """
    who, a = runners.cells, runners.acceptance
    mu = expected(a, runners.lengths)
    cells = len(begin)
    groups = _Groups(runners, mu, cells)

    def total(values: Floats) -> Floats:
        return np.asarray(np.bincount(who, values, cells), np.float64)

    taken, (_, slope) = begin, costs.at(total(runners.sequences))
    known = groups.longest if barrier else waits
    found, before = np.zeros(len(who)), np.full(cells, np.nan)
    for step in range(_STEPS):
        wait = groups.wait(taken, slope) if known is None else known
        interval = wait + taken
        late = runners.ways > wait[who] + _LEAST
        behind = np.maximum((runners.ways - wait[who]) / interval[who], 0.0)
        rounds = np.where(late, 1 + np.maximum(1.0, behind + 0.5), 1.0) if not barrier else np.ones(len(who))
        busy = total(runners.sequences * ((mu - 1) / rounds + 1)) / taken
        joins = (rounds > 1) & _joins(runners.ways, mu, a, taken[who], (slope * busy)[who])
        own = np.where(joins, rounds - 1, 0.0)
        left = np.maximum(runners.lengths - own, 0.0)
        drafted = own + 1 + np.maximum(mu - expected(a, own), 0.0)
        cycle = (runners.shares * rounds + 1 - runners.shares) * interval[who]
        found_now = runners.sequences * (runners.shares * drafted + 1 - runners.shares) / cycle
        fed = runners.shares * (own + 1 + a**own * left) + 1 - runners.shares
        tokens = interval * total(runners.sequences * fed / cycle)
        seconds, slope = costs.at(tokens)
        if (wait == before).all() and (np.abs(seconds - taken) <= _CLOSE * taken).all():
            return found_now, taken
        taken, before = (taken + seconds) / 2, wait
        if step >= _STEPS - _COUNTED:
            found += found_now / _COUNTED
    return found, taken


def _joins(ways: Floats, mu: Floats, acceptance: Floats, taken: Floats, token_cost: Floats) -> Flags:
    """Who gets the verifier's own token while its draft is out, as the verifier's admission has it."""
    return np.asarray((ways > taken * (mu - 1)) | (1 - acceptance >= token_cost))


class _Groups:
    """The drafters of each cell by how long their drafts are on their way, float64 `[c, g]` each."""

    def __init__(self, runners: Runners, mu: Floats, cells: int) -> None:
        who = runners.cells
        counts = np.bincount(who, minlength=cells)
        order = np.lexsort((runners.ways, who))
        rank = np.empty(len(who), np.int64)
        rank[order] = np.arange(len(who)) - np.repeat(np.cumsum(counts) - counts, counts)
        size = min(GROUPS, int(counts.max(initial=1)))
        # Few are a group each; many are groups of equal size.
        group = rank * size // np.maximum(counts, size)[who]
        place = who * size + group

        def summed(values: Floats) -> Floats:
            sums = np.bincount(place, values, cells * size)
            return np.asarray(sums, np.float64).reshape(cells, size)

        drafting = runners.sequences * runners.shares
        self._drafting = summed(drafting)
        heads = np.maximum(self._drafting, _LEAST)
        self._mu = np.where(self._drafting > 0, summed(drafting * mu) / heads, 1.0)
        self._acceptance = summed(drafting * runners.acceptance) / heads
        ways = np.zeros(cells * size)
        np.maximum.at(ways, place, np.where(drafting > 0, runners.ways, 0.0))
        self._ways = np.maximum.accumulate(ways.reshape(cells, size), axis=1)
        self._alone = np.bincount(who, runners.sequences - drafting, cells)
        self._everyone = np.bincount(who, runners.sequences, cells)
        self.longest = self._ways[:, -1]

    def wait(self, taken: Floats, slope: Floats) -> Floats:
        """D, float64 `[c]`: how long each cell waits when all its drafts have just been sent for.

        Args:
            taken: float64 `[c]`, seconds of a pass.
            slope: float64 `[c]`, that one more token adds to it.
        """
        cells, size = self._ways.shape
        rows, places = np.arange(cells), np.arange(size)
        arrived, wait = np.zeros(cells, np.int64), np.zeros(cells)
        open_cells = self._drafting.sum(axis=1) > 0
        worth = self._drafting * self._mu
        pass_time = taken[:, None]
        for _ in range(size):
            here = places < arrived[:, None]
            out = np.where(here, 0.0, self._drafting)
            ready = np.where(here, worth, 0.0).sum(axis=1)
            busy = (ready + self._alone + out.sum(axis=1)) / taken
            joins = _joins(self._ways, self._mu, self._acceptance, pass_time, (slope * busy)[:, None])
            base = ready + self._alone + (out * joins).sum(axis=1)
            due = np.maximum(self._ways - wait[:, None], 0.0)
            waiting = (base[:, None] + np.cumsum(out * (self._mu - joins), axis=1)) / (due + pass_time)
            bridged = (base + self._everyone)[:, None] + np.cumsum(
                out * (self._mu - self._acceptance - 1), axis=1
            )
            bridge = bridged / (np.maximum(due, pass_time) + pass_time)
            better = ~here & (out > 0) & (waiting > np.maximum((base / taken)[:, None], bridge) + _LEAST)
            best = np.where(better, waiting, -np.inf).argmax(axis=1)
            # Nobody could be in a round now: the first draft is waited for, whatever it is worth.
            first = np.where(~here & (out > 0), places, size).min(axis=1)
            goes_on = open_cells & (arrived < size) & (better.any(axis=1) | (base <= _LEAST)) & (first < size)
            if not goes_on.any():
                break
            best = np.where(base <= _LEAST, np.minimum(first, size - 1), best)
            wait = np.where(goes_on, self._ways[rows, best], wait)
            arrived = np.where(goes_on, best + 1, arrived)
            open_cells = goes_on
        return wait
