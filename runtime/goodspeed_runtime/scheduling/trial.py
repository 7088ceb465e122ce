"""Whether drafting pays at all, by trying the other way: seconds and tokens are compared, no model of costs.

A model of what drafts cost cannot see everything: drafters on the verifier's own device slow its passes, and
every draft is work on the host. So now and then everyone is decoded the other way for a few rounds, plainly
where drafts are usual and with drafts where they are not, by turns with the usual way, and what accounts get
is compared. Whoever plays rounds brings tokens and seconds; there is no clock and no chance in here.
"""

from dataclasses import dataclass, field

import numpy as np

from goodspeed_runtime.scheduling.advantage import Pair, advantage
from goodspeed_runtime.scheduling.arrays import Floats, Integers

DRAFTED, PLAIN = 0, 1

_FIRST_ROUNDS = 64
_BLOCK_ROUNDS, _BLOCK_SECONDS = 8, 0.02
_BLOCK_DRAFTS = 4
_SETTLING_DRAFTS = 2
_LONGEST_SECONDS = 2.0
_NO_DRAFT_ROUNDS, _IDLE_ROUNDS = 16, 64
_FEWEST_PAIRS, _MOST_PAIRS, _KEPT_PAIRS = 3, 8, 24
_FIRST_GAP, _LONGEST_GAP = 16.0, 256.0
_LEAST_GAP, _GAP_SECONDS = 64.0, 60.0
_HYSTERESIS = 0.75


@dataclass(frozen=True, slots=True)
class TrialRound:
    """One round as a trial sees it.

    Attributes:
        accounts: int64 `[m]`, rows of those who got tokens; they may repeat.
        committed: int64 `[m]`, the tokens.
        present: int64 `[n]`, the account of each sequence that was under way when the round began.
        seconds: of the round, all work between its verdicts and the last round's included.
        answered: drafts that it verified.
        out: drafts that were granted, and not verified, when it began.
    """

    accounts: Integers
    committed: Integers
    present: Integers
    seconds: float
    answered: int
    out: int


class _Sums:
    """What accounts have come to in one way: tokens and seconds times sequences, float64 `[rows]`."""

    __slots__ = ("answered", "rounds", "seconds", "sequence_seconds", "tokens")

    def __init__(self, rows: int) -> None:
        self.tokens: Floats = np.zeros(rows)
        self.sequence_seconds: Floats = np.zeros(rows)
        self.seconds = 0.0
        self.rounds = self.answered = 0

    def add(self, played: TrialRound) -> None:
        rows = len(self.tokens)
        self.tokens += np.bincount(played.accounts, played.committed, rows)
        self.sequence_seconds += played.seconds * np.bincount(played.present, minlength=rows)
        self.seconds += played.seconds
        self.rounds += 1
        self.answered += played.answered


@dataclass(slots=True)
class _Load:
    """What is known with about so many sequences.

    Attributes:
        way: that is usual.
        rounds: still to be seen before the first trial.
        left: seconds until the next trial.
        spent: seconds of the last trial in the way that is not the usual one, by now.
        gap: how many times that the usual way goes on before the next one.
        pairs: of blocks, the latest last.
        idle: rounds in a row without a draft though there might have been.
        insists: whether the allocator is overruled where it grants nothing.
    """

    way: int = DRAFTED
    rounds: int = _FIRST_ROUNDS
    left: float = 0.0
    spent: float = 0.0
    gap: float = _FIRST_GAP
    pairs: list[Pair] = field(default_factory=list)
    idle: int = 0
    insists: bool = False


class PlainTrial:
    """Chooses between drafts as the allocator grants them and none at all, by what accounts get a second.

    A trial is 3 to 8 pairs of blocks, one block the usual way and one the other. It ends as soon as the
    answer is clear. The usual way changes where the other one is surely better, and by 2 % (`advantage`). The
    next trial comes after 16 times the seconds that this one went the other way, after twice as many times
    with every answer that changes nothing, up to 256, but within a minute where that is 64 times or more. So
    where answers stay the same at most 1/65 of the time goes the other way. Loads, by octaves of sequences,
    have usual ways and trials of their own.

    Where the allocator grants nothing, and so learns nothing, it has drafts tried all the same (`insists`).

    Attributes:
        ratio: of goodput by plain decoding to that with drafts, as last compared: the accounts' geometric
            mean where utility is the logarithm; 1 before.
        tried_seconds: that went the way that was not the usual one.
    """

    def __init__(self, alpha: float) -> None:
        """`alpha` is that of the α-fair utility by which the ways are compared."""
        self._alpha = alpha
        self.tried_seconds = 0.0
        self.forget()

    def forget(self) -> None:
        """Starts anew: nobody whom anything was learnt of is there any more."""
        self.ratio = 1.0
        self._loads: dict[int, _Load] = {}
        self._octave: int | None = None
        self._load = _Load()
        self._blocks: list[_Sums] | None = None
        self._trying, self._settled = False, True
        self._settling = _Sums(0)
        self._spent, self._new = [0.0, 0.0], 0

    def changed(self) -> None:
        """A drafter has come or gone: what was learnt still holds, but is to be tried again soon."""
        self._end()
        for load in self._loads.values():
            load.gap = _FIRST_GAP
            load.left = min(load.left, load.gap * load.spent)

    @property
    def usual(self) -> int:
        """`DRAFTED` or `PLAIN`: what has been chosen for as many sequences as there are now."""
        return self._load.way

    @property
    def plain(self) -> bool:
        """Whether nobody should be granted anything now."""
        return self._way == PLAIN

    @property
    def insists(self) -> bool:
        """Whether somebody should be granted something now, even if the allocator would not."""
        return self._way == DRAFTED and (self._load.insists or self._blocks is not None)

    @property
    def _way(self) -> int:
        return self._load.way ^ self._trying

    def observe(self, played: TrialRound, weights: Floats) -> None:
        """Takes in a round; what follows from it holds from the next grants on.

        `weights` (float64 `[rows]`) are those of all accounts by row; call `changed` before their number is
        another.
        """
        if not len(played.present) or not played.seconds > 0:
            return
        self._follow(len(played.present))
        if self._blocks is None:
            self._wait(played, len(weights))
            return
        self._spent[self._way] += played.seconds
        if self._trying:
            self.tried_seconds += played.seconds
        if not self._settled and not self._settles(played):
            return
        block = self._blocks[self._way]
        block.add(played)
        if self._complete(block, played):
            self._turn(weights)

    def _follow(self, sequences: int) -> None:
        """Takes up what is known of the load; one that changes by a sequence or two is still the same."""
        size = float(np.log2(sequences))
        if self._octave is None or abs(size - self._octave) > _HYSTERESIS:
            self._end()
            self._octave = round(size)
            self._load = self._loads.setdefault(self._octave, _Load())

    def _wait(self, played: TrialRound, rows: int) -> None:
        load = self._load
        load.rounds -= 1
        load.left -= played.seconds
        load.idle = 0 if load.way == PLAIN or played.out else load.idle + 1
        if load.idle >= _IDLE_ROUNDS:
            # That is plain decoding, and whether it is right is to be tried.
            load.way, load.insists, load.idle = PLAIN, True, 0
        if load.rounds < 0 and load.left <= 0 and (load.way == PLAIN or played.out):
            self._blocks = [_Sums(rows), _Sums(rows)]
            self._spent, self._new = [0.0, 0.0], 0

    def _settles(self, played: TrialRound) -> bool:
        """Whether this round is the first in which only this way is at work."""
        settling = self._settling
        settling.seconds += played.seconds
        settling.rounds += 1
        settling.answered += played.answered
        late = settling.seconds > _LONGEST_SECONDS
        if self._way == PLAIN:
            self._settled = late or not played.out
            return self._settled
        if settling.rounds >= _NO_DRAFT_ROUNDS and not settling.answered and not played.out:
            # There is no budget, or nobody drafts.
            self._end(doubled=True)
            return False
        self._settled = late or settling.answered >= _SETTLING_DRAFTS * max(played.out, 1)
        return False

    def _complete(self, block: _Sums, played: TrialRound) -> bool:
        if block.rounds < _BLOCK_ROUNDS or block.seconds < _BLOCK_SECONDS:
            return False
        drafts = self._way == PLAIN or block.answered >= _BLOCK_DRAFTS * played.out
        return drafts or block.seconds > _LONGEST_SECONDS

    def _turn(self, weights: Floats) -> None:
        """A block is complete: the other way is next, or the trial is over."""
        assert self._blocks is not None
        if self._trying:
            load = self._load
            pair = Pair(
                np.array([block.tokens for block in self._blocks]),
                np.array([block.sequence_seconds for block in self._blocks]),
                sum(block.seconds for block in self._blocks),
            )
            load.pairs = [*load.pairs[1 - _KEPT_PAIRS :], pair]
            self._new += 1
            if self._new >= _FEWEST_PAIRS and self._decided(weights):
                return
            self._blocks = [_Sums(len(weights)), _Sums(len(weights))]
        self._trying, self._settled, self._settling = not self._trying, False, _Sums(0)

    def _decided(self, weights: Floats) -> bool:
        """Ends the trial where the answer is clear, or was sought for long enough."""
        load = self._load
        found = advantage(load.pairs[-self._new :], weights, self._alpha)
        if found.better is not None:
            # What is clear by itself is not argued with by what was true earlier.
            load.pairs = load.pairs[-self._new :]
        else:
            found = advantage(load.pairs, weights, self._alpha)
        self.ratio = float(np.exp(found.gain))
        if found.better is None and not found.equal and self._new < _MOST_PAIRS:
            return False
        if found.better is None or found.better == load.way:
            self._end(doubled=True)
        else:
            load.way, load.gap, load.insists = found.better, _FIRST_GAP, True
            self._end()
        return True

    def _end(self, *, doubled: bool = False) -> None:
        """Goes on in the usual way; the next trial comes after a multiple of what this one took."""
        if self._blocks is None:
            return
        load = self._load
        # What the next trial will take, of the way that is then the other one.
        load.spent = self._spent[1 - load.way]
        load.left = min(load.gap * load.spent, max(_GAP_SECONDS, _LEAST_GAP * load.spent))
        if doubled:
            load.gap = min(2 * load.gap, _LONGEST_GAP)
        self._blocks = None
        self._trying, self._settled = False, True
