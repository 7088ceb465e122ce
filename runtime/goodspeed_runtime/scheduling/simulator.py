"""Plays rounds of drafting and verification against any allocator; scenarios and pictures are made elsewhere.

Event-driven: time jumps from one round to the next, to the moment a draft arrives, and to each change of a
client. All clients of a cell are arrays, so that a round costs a few dozen array operations however many
they are.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from goodspeed_runtime.scheduling.allocation import Allocator, Refinements
from goodspeed_runtime.scheduling.arrays import Flags, Floats, Integers
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, GoodputEstimator
from goodspeed_runtime.scheduling.goodput import expected_by_length
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.grants import member_grants
from goodspeed_runtime.scheduling.ledger import Ledger, Moment
from goodspeed_runtime.scheduling.population import Changes, Clients
from goodspeed_runtime.scheduling.rules import Rules
from goodspeed_runtime.scheduling.survival import SurvivalEstimator
from goodspeed_runtime.scheduling.timing import Timing
from goodspeed_runtime.scheduling.trial import PlainTrial, TrialRound

_BLOCK = 128


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
        survival: SurvivalEstimator | None = None,
        changes: Changes | None = None,
        ledger: Ledger | None = None,
        trial: PlainTrial | None = None,
    ) -> None:
        """`rows` (int64 `[m]`) are attached here; only those present and in the estimators take part.

        With `survival` the allocator is given survival by position, learnt on top of α̂. `trial` hears of
        every round; that the allocator heeds it is the caller's business.
        """
        self.clients, self.rules, self.ledger = clients, rules, ledger or Ledger.empty(len(clients))
        self.rows = np.sort(rows[clients.present[rows]])
        self.now, self.rounds = 0.0, 0
        self._allocator, self._acceptance, self._goodput = allocator, acceptance, goodput
        self._generator, self._survival, self._trial = generator, survival, trial
        self._changes = changes or Changes()
        self._next_change = 0
        self._ready = np.asarray(clients.delay_seconds[self.rows], np.float64)
        self._granted = np.zeros(len(self.rows), np.int64)
        # Of the drafts under way, what the verifier has not overtaken.
        self._left = self._granted.copy()
        self._wait = 0.0
        self._costs: dict[int, float] = {}
        self._longest = max(min(int(clients.caps.max()), rules.budget), 1)
        self._noise: Iterator[tuple[Floats, Floats]] = iter(())
        self._reference = GradientAllocator(rules.utility)
        self._prices, self._priced_rounds = 0.0, 0
        # Since the start, warm-up included; `_since` is what has not been added to any ledger yet.
        self._whole = Ledger.empty(len(clients))
        self._since, self._since_rounds, self._since_seconds = np.zeros(0), 0, 0.0
        self._moment_tokens, self._moment_rounds = 0.0, 0
        self._gather()

    def join(self, row: int) -> None:
        """Attaches a client, which begins with an empty draft."""
        self._flush()
        place = int(np.searchsorted(self.rows, row))
        self.rows = np.insert(self.rows, place, row)
        self._granted = np.insert(self._granted, place, 0)
        self._left = np.insert(self._left, place, 0)
        self._ready = np.insert(self._ready, place, self.now + self.clients.delay_seconds[row])
        self._gather()

    def leave(self, row: int) -> None:
        """Detaches a client; its draft under way is lost."""
        self._flush()
        others = self.rows != row
        self.rows, self._granted, self._ready = self.rows[others], self._granted[others], self._ready[others]
        self._left = self._left[others]
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
        self._flush()

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
                if self._survival is not None:
                    self._survival.add(row)
                self.join(row)
        self._gather()

    def _gather(self) -> None:
        """Copies the columns of the rows in use, which change rarely and are read every round."""
        clients, rows = self.clients, self.rows
        self._everyone = np.ones(len(rows), np.bool_)
        self._weights, self._caps = clients.weights[rows], clients.caps[rows]
        self._draft, self._delay = clients.draft_seconds[rows], clients.delay_seconds[rows]
        self._true = clients.acceptance[rows]
        by_position = clients.by_position(rows, self._longest)
        # A ratio is U^c, whose mean is 1/(1 + c): c gives every client ratios that average to its α.
        self._exponent = 1 / by_position - 1
        self._truth: Floats = np.cumprod(by_position, axis=1, dtype=np.float64)
        faded = self.rules.omniscient and bool((clients.fade[rows] != 1).any())
        self._refinements = Refinements(
            floors=clients.floors[rows] if clients.floors[rows].any() else None,
            survival=self._truth if faded else None,
            timing=Timing(self._draft, self._delay, self.rules.verification)
            if self.rules.grants_timing
            else None,
        )
        self._firsts = np.arange(len(rows)) * (self._longest + 1)
        self._noise = iter(())
        self._flush()
        self._since = np.zeros(len(rows))

    def _members(self) -> tuple[float, Flags]:
        """When the next round starts, and which of the rows it takes."""
        ready = self._ready
        last = float(ready.max())
        start = max(self.now, last)
        if self.rules.verifier_decodes:
            start = min(start, self.now + self._wait)
        elif not self.rules.barrier:
            start = min(start, max(self.now + self._wait, float(ready.min())))
        return start, self._everyone if start >= last else ready <= start

    def _round(self) -> None:
        if self._next_change < len(self._changes.at) and self._changes.at[self._next_change] <= self.now:
            self._apply_changes()
            if not len(self.rows):
                return
        began = self.now
        start, members = self._members()
        if members is self._everyone:
            drafted = self._left
            accepted, ratios = self._judge(drafted)
            committed = accepted + 1
            tokens = int(drafted.sum()) + len(drafted)
        elif self.rules.verifier_decodes:
            # Who is late gets a token of the verifier's own, which its draft agrees with or is lost.
            tested = np.where(members, self._left, np.minimum(self._left, 1))
            accepted, ratios = self._judge(tested)
            committed = np.where(members, accepted + 1, 1)
            agreed = np.where(accepted > 0, self._left - 1, 0)
            self._left = np.where(members, self._left, agreed)
            drafted = np.where(members, tested, 0)
            tokens = int(drafted.sum()) + len(drafted)
        else:
            drafted = np.where(members, self._left, 0)
            accepted, ratios = self._judge(drafted)
            committed = np.where(members, accepted + 1, 0)
            tokens = int(drafted.sum()) + int(np.count_nonzero(members))
        drafting = int(np.count_nonzero(self._granted))
        slower = 1 + self.rules.contention * drafting / len(self.rows)
        self.now = start + slower * self._verification(tokens)
        self.rounds += 1
        self._learn(members, ratios, drafted, accepted, committed, self.now - began)
        if self._trial is not None:
            answered = int(np.count_nonzero(drafted))
            played = TrialRound(self.rows, committed, self.rows, self.now - began, answered, drafting)
            self._trial.observe(played, self.clients.weights)
        estimate, refinements = self._grant(members)
        self._record(committed, began, start, estimate, refinements)

    def _verification(self, tokens: int) -> float:
        seconds = self._costs.get(tokens)
        if seconds is None:
            seconds = self._costs[tokens] = self.rules.verification.at(float(tokens))
        return seconds

    def _judge(self, drafted: Integers) -> tuple[Integers, Floats]:
        """How many of each draft are accepted, and the sum of its ratios min(1, p/q)."""
        one = next(self._noise, None)
        if one is None:
            shape = (_BLOCK, len(self.rows), self._longest)
            costs = self._exponent * self._generator.standard_exponential(shape)
            passes = costs <= self._generator.standard_exponential(shape)
            # What 0, 1, 2, ... drafted tokens come to, so that a draft's length is its index.
            sums = np.zeros((_BLOCK, len(self.rows), self._longest + 1))
            np.exp(-costs).cumsum(axis=2, out=sums[:, :, 1:])
            self._noise = zip(
                sums.reshape(_BLOCK, -1), np.logical_and.accumulate(passes, axis=2).sum(axis=2), strict=True
            )
            one = next(self._noise)
        sums, run = one
        return np.minimum(run, drafted), sums.take(self._firsts + drafted)

    def _learn(
        self,
        members: Flags,
        ratios: Floats,
        drafted: Integers,
        accepted: Integers,
        committed: Integers,
        seconds: float,
    ) -> None:
        rows = self.rows
        if self._survival is not None:
            self._survival.update(rows, accepted, drafted, self._acceptance.estimates(rows))
        if members is self._everyone:
            self._acceptance.update(rows, ratios, drafted, distinct=True)
        else:
            self._acceptance.update(rows[members], ratios[members], drafted[members], distinct=True)
        earned = committed / seconds if self.rules.per_second else committed
        self._goodput.update(rows, earned, distinct=True)

    def _grant(self, members: Flags) -> tuple[Floats, Refinements]:
        """Solves for the next grants, hands them to the members, and returns what it was solved with."""
        rows, refinements = self.rows, self._refinements
        estimate = self._true if self.rules.omniscient else self._acceptance.estimates(rows)
        if self._survival is not None:
            refinements = replace(refinements, survival=self._survival.survival(rows, estimate))
        allocation = self._allocator.allocate(
            weights=self._weights,
            acceptance=estimate,
            goodput=self._goodput.estimates(rows),
            caps=self._caps,
            budget=self.rules.budget,
            refinements=refinements,
        )
        self._prices += allocation.shadow_price
        self._priced_rounds += 1
        if allocation.wait_seconds is not None:
            self._wait = allocation.wait_seconds
        if members is self._everyone:
            self._granted = allocation.grants
            self._left = self._granted.copy()
            self._ready = self.now + self._arrival(self._granted, members)
        else:
            grants = member_grants(
                solved=allocation.grants,
                members=members,
                in_flight=self._granted,
                budget=self.rules.budget,
            )
            self._granted[members] = self._left[members] = grants
            self._ready[members] = self.now + self._arrival(grants, members)
        return estimate, refinements

    def _arrival(self, grants: Integers, members: Flags) -> Floats:
        """Seconds from grants (int64 `[m]`) to what comes of them."""
        delay = self._delay[members]
        if self.rules.verifier_decodes:
            delay = np.where(grants > 0, delay, 0)
        return np.asarray(delay + grants * self._draft[members])

    def _record(
        self, committed: Integers, began: float, start: float, estimate: Floats, refinements: Refinements
    ) -> None:
        rules, ledger = self.rules, self.ledger
        self._since += committed
        self._since_rounds += 1
        self._since_seconds += self.now - began
        if rules.every and self.rounds % rules.every == 0:
            self._flush()
            ledger.moments.append(self._moment(estimate, refinements))
            self._moment_tokens, self._moment_rounds = 0.0, 0
        if self.rounds > rules.warm_up_rounds:
            ledger.round_seconds.append(self.now - began)
            ledger.waiting += start - began
            ledger.verifying += self.now - start
        elif self.rounds == rules.warm_up_rounds:
            self._flush()

    def _flush(self) -> None:
        """Adds the rounds since the last time to the sums; they all had the same clients."""
        rows, tokens = self.rows, self._since
        if not self._since_rounds:
            return
        for ledger in (
            (self._whole, self.ledger) if self.rounds > self.rules.warm_up_rounds else (self._whole,)
        ):
            ledger.tokens[rows] += tokens
            ledger.rounds[rows] += self._since_rounds
            ledger.seconds[rows] += self._since_seconds
        self._moment_tokens += float(tokens.sum()) / len(rows)
        self._moment_rounds += self._since_rounds
        self._since, self._since_rounds, self._since_seconds = np.zeros(len(rows)), 0, 0.0

    def _moment(self, estimate: Floats, refinements: Refinements) -> Moment:
        rules, rows, utility = self.rules, self.rows, self.rules.utility
        granted = self._granted
        goodput = self._goodput.estimates(rows)
        best = self._reference.allocate(
            weights=self._weights,
            acceptance=self._true,
            goodput=goodput,
            caps=self._caps,
            budget=rules.budget,
            refinements=Refinements(floors=self._refinements.floors, survival=self._truth),
        )
        values = self._weights * utility.gradient(goodput)
        places, everybody = np.arange(self._longest + 1), np.arange(len(rows))
        truth = expected_by_length(self._true, places, self._truth)
        believed = expected_by_length(estimate, places, refinements.survival)
        most = float((values * truth[everybody, best.grants]).sum())
        have = float((values * truth[everybody, granted]).sum())
        by_round = utility.value(self._whole.tokens[rows] / self._whole.rounds[rows])
        by_second = utility.value(self._whole.tokens[rows] / self._whole.seconds[rows])
        return Moment(
            seconds=self.now,
            rounds=self.rounds,
            utility=float((self._weights * by_round).sum()),
            utility_per_second=float((self._weights * by_second).sum()),
            estimated=float(believed[everybody, granted].mean()),
            actual=self._moment_tokens / self._moment_rounds,
            regret=1 - have / most,
            error=float(np.sqrt(((estimate - self._true) ** 2).mean())),
        )
