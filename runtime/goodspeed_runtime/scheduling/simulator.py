"""Plays rounds of drafting and verification against any allocator; scenarios and pictures are made elsewhere.

Event-driven: time jumps from one round to the next, to the moment a draft arrives, and to each change of a
client. All clients of a cell are arrays, so that a round costs a few dozen array operations however many
they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.scheduling.allocation import Allocator, Refinements
from goodspeed_runtime.scheduling.arrays import Flags, Floats, Integers
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, GoodputEstimator
from goodspeed_runtime.scheduling.goodput import expected_goodput
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.grants import member_grants
from goodspeed_runtime.scheduling.ledger import Ledger, Moment
from goodspeed_runtime.scheduling.population import Changes, Clients
from goodspeed_runtime.scheduling.timing import Timing, VerificationCost
from goodspeed_runtime.scheduling.utility import AlphaFair

_BLOCK = 128


@dataclass(frozen=True, slots=True)
class Rules:
    """How a cell runs its rounds.

    Attributes:
        budget: C, draft tokens in flight.
        verification: T_V.
        utility: U, for the allocator's regret and the curves.
        barrier: Every round waits for every client, as in the paper; else it takes the drafts that have
            arrived.
        per_second: Goodput estimates are in tokens per second rather than per round.
        omniscient: The allocator is given the true α.
        warm_up_rounds: Rounds that the ledger's sums leave out.
        every: Rounds between two moments of the curves; 0 draws none.
        grants_timing: The allocator is given draft and link times.
    """

    budget: int
    verification: VerificationCost
    utility: AlphaFair
    barrier: bool = True
    per_second: bool = False
    omniscient: bool = False
    warm_up_rounds: int = 0
    every: int = 0
    grants_timing: bool = False


class Cell:
    """One verifier and the clients attached to it, all rows of shared `Clients` and estimators."""

    def __init__(
        self,
        *,
        clients: Clients,
        rows: Integers,
        rules: Rules,
        allocator: Allocator,
        acceptance: AcceptanceEstimator,
        goodput: GoodputEstimator,
        generator: np.random.Generator,
        changes: Changes | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """`rows` (int64 `[m]`) are attached here; only those present and in the estimators take part."""
        self.clients, self.rules, self.ledger = clients, rules, ledger or Ledger.empty(len(clients))
        self.rows = np.sort(rows[clients.present[rows]])
        self.now, self.rounds = 0.0, 0
        self._allocator, self._acceptance, self._goodput = allocator, acceptance, goodput
        self._generator = generator
        self._changes = changes or Changes()
        self._next_change = 0
        self._ready = np.asarray(self.clients.delay_seconds, np.float64).copy()
        self._granted = np.zeros(len(clients), np.int64)
        self._wait = 0.0
        self._longest = max(min(int(clients.caps.max()), rules.budget), 1)
        self._noise: Iterator[tuple[Floats, Floats]] = iter(())
        self._reference = GradientAllocator(rules.utility)
        self._prices, self._priced_rounds = 0.0, 0
        self._whole_tokens = np.zeros(len(clients))
        self._whole_rounds = np.zeros(len(clients))
        self._whole_seconds = np.zeros(len(clients))
        self._moment_tokens, self._moment_rounds = 0.0, 0
        self._gather()

    def join(self, row: int) -> None:
        """Attaches a client, which begins with an empty draft."""
        self.rows = np.sort(np.append(self.rows, row))
        self._granted[row] = 0
        self._ready[row] = self.now + self.clients.delay_seconds[row]
        self._gather()

    def leave(self, row: int) -> None:
        """Detaches a client; its draft under way is lost."""
        self.rows = self.rows[self.rows != row]
        self._granted[row] = 0
        self._gather()

    def take_mean_price(self) -> float:
        """The shadow price averaged over the rounds since the last call; 0 if there were none."""
        mean = self._prices / self._priced_rounds if self._priced_rounds else 0.0
        self._prices, self._priced_rounds = 0.0, 0
        return mean

    def run(self, *, rounds: int | None = None, until: float = np.inf) -> None:
        """Plays so many rounds, or until that second, whichever comes first."""
        last = np.inf if rounds is None else self.rounds + rounds
        while self.rounds < last and self.now < until:
            if not len(self.rows) and not self._skip_to_next_change(until):
                return
            self._round()

    def _skip_to_next_change(self, until: float) -> bool:
        if self._next_change >= len(self._changes.at) or self._changes.at[self._next_change] >= until:
            self.now = max(self.now, until) if np.isfinite(until) else self.now
            return False
        self.now = float(self._changes.at[self._next_change])
        self._apply_changes()
        return bool(len(self.rows))

    def _apply_changes(self) -> None:
        changes, clients = self._changes, self.clients
        while self._next_change < len(changes.at) and changes.at[self._next_change] <= self.now:
            row = int(changes.client[self._next_change])
            alpha = float(changes.acceptance[self._next_change])
            self._next_change += 1
            if np.isnan(alpha):
                if clients.present[row]:
                    clients.present[row] = False
                    self._acceptance.remove(row)
                    self._goodput.remove(row)
                    self.leave(row)
                continue
            clients.acceptance[row] = alpha
            if not clients.present[row]:
                clients.present[row] = True
                self._acceptance.add(row)
                self._goodput.add(row)
                self.join(row)
        self._gather()

    def _gather(self) -> None:
        """Copies the columns of the rows in use, which change rarely and are read every round."""
        clients, rows = self.clients, self.rows
        self._everyone = np.ones(len(rows), np.bool_)
        self._weights, self._caps = clients.weights[rows], clients.caps[rows]
        self._draft, self._delay = clients.draft_seconds[rows], clients.delay_seconds[rows]
        self._true = clients.acceptance[rows]
        # A ratio is U^c, whose mean is 1/(1 + c): c gives every client ratios that average to its α.
        self._exponent = (1 / self._true - 1)[:, None]
        self._refinements = Refinements(
            timing=Timing(self._draft, self._delay, self.rules.verification)
            if self.rules.grants_timing
            else None
        )
        self._noise = iter(())

    def _members(self) -> tuple[float, Flags]:
        """When the next round starts, and which of the rows it takes."""
        ready = self._ready[self.rows]
        last = float(ready.max())
        start = max(self.now, last)
        if not self.rules.barrier:
            start = min(start, max(self.now + self._wait, float(ready.min())))
        return start, self._everyone if start >= last else ready <= start

    def _round(self) -> None:
        if self._next_change < len(self._changes.at) and self._changes.at[self._next_change] <= self.now:
            self._apply_changes()
            if not len(self.rows):
                return
        began = self.now
        start, members = self._members()
        rows = self.rows
        drafted = np.where(members, self._granted[rows], 0)
        accepted, ratios = self._judge(drafted)
        committed = np.where(members, accepted + 1, 0)
        seconds = self.rules.verification.at(float(drafted.sum() + np.count_nonzero(members)))
        self.now = start + seconds
        self.rounds += 1
        self._learn(members, ratios, drafted, committed, self.now - began)
        expected = self._grant(members)
        self._record(committed, began, start, expected)

    def _judge(self, drafted: Integers) -> tuple[Integers, Floats]:
        """How many of each draft are accepted, and the sum of its ratios min(1, p/q)."""
        one = next(self._noise, None)
        if one is None:
            shape = (_BLOCK, len(self.rows), self._longest)
            costs = self._exponent * self._generator.standard_exponential(shape)
            passes = costs <= self._generator.standard_exponential(shape)
            self._noise = zip(
                np.exp(-costs).cumsum(axis=2),
                np.logical_and.accumulate(passes, axis=2).sum(axis=2),
                strict=True,
            )
            one = next(self._noise)
        sums, run = one
        ratios = np.where(drafted > 0, sums[np.arange(len(drafted)), np.maximum(drafted - 1, 0)], 0.0)
        return np.minimum(run, drafted), ratios

    def _learn(
        self, members: Flags, ratios: Floats, drafted: Integers, committed: Integers, seconds: float
    ) -> None:
        rows = self.rows
        took = rows if members is self._everyone else rows[members]
        if members is self._everyone:
            self._acceptance.update(took, ratios, drafted)
        else:
            self._acceptance.update(took, ratios[members], drafted[members])
        self._goodput.update(rows, committed / seconds if self.rules.per_second else committed)

    def _grant(self, members: Flags) -> Floats:
        """Solves for the next grants, hands them to the members, and returns mu(α̂, S) of all."""
        rows = self.rows
        estimate = self._true if self.rules.omniscient else self._acceptance.estimates(rows)
        allocation = self._allocator.allocate(
            weights=self._weights,
            acceptance=estimate,
            goodput=self._goodput.estimates(rows),
            caps=self._caps,
            budget=self.rules.budget,
            refinements=self._refinements,
        )
        self._prices += allocation.shadow_price
        self._priced_rounds += 1
        if allocation.wait_seconds is not None:
            self._wait = allocation.wait_seconds
        if members is self._everyone:
            grants = allocation.grants
            self._granted[rows] = grants
            self._ready[rows] = self.now + self._delay + grants * self._draft
        else:
            took = rows[members]
            grants = member_grants(
                solved=allocation.grants,
                members=members,
                in_flight=self._granted[rows],
                budget=self.rules.budget,
            )
            self._granted[took] = grants
            self._ready[took] = self.now + self._delay[members] + grants * self._draft[members]
        return estimate

    def _record(self, committed: Integers, began: float, start: float, estimate: Floats) -> None:
        rules, ledger, rows = self.rules, self.ledger, self.rows
        if rules.every:
            self._whole_tokens[rows] += committed
            self._whole_rounds[rows] += 1
            self._whole_seconds[rows] += self.now - began
            self._moment_tokens += float(committed.sum()) / len(rows)
            self._moment_rounds += 1
            if self.rounds % rules.every == 0:
                ledger.moments.append(self._moment(estimate))
                self._moment_tokens, self._moment_rounds = 0.0, 0
        if self.rounds <= rules.warm_up_rounds:
            return
        ledger.tokens[rows] += committed
        ledger.rounds[rows] += 1
        ledger.seconds[rows] += self.now - began
        ledger.round_seconds.append(self.now - began)
        ledger.waiting += start - began
        ledger.verifying += self.now - start

    def _moment(self, estimate: Floats) -> Moment:
        rules, rows, utility = self.rules, self.rows, self.rules.utility
        granted = self._granted[rows]
        goodput = self._goodput.estimates(rows)
        best = self._reference.allocate(
            weights=self._weights,
            acceptance=self._true,
            goodput=goodput,
            caps=self._caps,
            budget=rules.budget,
        )
        values = self._weights * utility.gradient(goodput)
        most = float((values * expected_goodput(self._true, best.grants)).sum())
        have = float((values * expected_goodput(self._true, granted)).sum())
        tokens = self._whole_tokens[rows]
        by_round = utility.value(tokens / self._whole_rounds[rows])
        by_second = utility.value(tokens / self._whole_seconds[rows])
        return Moment(
            seconds=self.now,
            rounds=self.rounds,
            utility=float((self._weights * by_round).sum()),
            utility_per_second=float((self._weights * by_second).sum()),
            estimated=float(expected_goodput(estimate, granted).mean()),
            actual=self._moment_tokens / self._moment_rounds,
            regret=1 - have / most,
            error=float(np.sqrt(((self._acceptance.estimates(rows) - self._true) ** 2).mean())),
        )
