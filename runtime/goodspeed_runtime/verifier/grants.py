"""Grants of the verifier: estimates in, draft lengths out.

Holds what the scheduler's pure parts leave to their caller: which drafter and
which account has which row, and what of the budget is still in flight.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace

import numpy as np

from goodspeed_runtime.scheduling.allocation import NO_REFINEMENTS, Allocation, Allocator, Refinements
from goodspeed_runtime.scheduling.baselines import FixedAllocator, RandomAllocator
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, ClientRows, GoodputEstimator
from goodspeed_runtime.scheduling.goodput import expected_goodput, jain_index
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.grants import member_grants
from goodspeed_runtime.scheduling.per_second import PerSecondAllocator
from goodspeed_runtime.scheduling.timing import VerificationCost
from goodspeed_runtime.scheduling.trial import DRAFTED, PlainTrial, TrialRound
from goodspeed_runtime.scheduling.tried import TriedAllocator
from goodspeed_runtime.scheduling.utility import AlphaFair
from goodspeed_runtime.verifier.outcomes import Outcomes
from goodspeed_runtime.verifier.sequence import Account, Client, Sequence
from goodspeed_runtime.verifier.settings import VerifierSettings
from goodspeed_runtime.verifier.speeds import Arrivals, Floats, Integers, RoundTimes, Speeds

_ROUNDS_BETWEEN_DEADLINES = 8


@dataclass(frozen=True, slots=True)
class Figures:
    """The scheduler's view after a round.

    Attributes:
        shadow_price: utility that one more token of budget would add.
        utility: of the accounts' goodput, summed.
        jain_index: of goodput per weight.
        wait_seconds: after these verdicts, until the next round; None where nobody has chosen.
        least_chance: float64 `[n]` for each active sequence, the chance of standing at which a token of its
            draft is worth as much as the budget's marginal one.
        clients: int64 `[n]`, rows of their drafters.
        granted: int64 `[n]`, what they were granted anew.
    """

    shadow_price: float
    utility: float
    jain_index: float
    wait_seconds: float | None
    least_chance: Floats
    clients: Integers
    granted: Integers


@dataclass(frozen=True, slots=True)
class _Plan:
    """A division of the budget that has not been handed out.

    Attributes:
        grants: of each sequence.
        allocation: what it came of.
        plain: it was made while everyone was decoded plainly for a trial.
    """

    grants: dict[Sequence, int]
    allocation: Allocation
    plain: bool


class Grants:
    """Learns from verdicts and divides the budget among sequences.

    Attributes:
        budget: C; may change between two rounds.
        speeds: of drafters, links and passes.
        tenants: accounts by name, of whoever is named in the settings.
        trial: of plain decoding, where goodput per second is what counts; None elsewhere.
    """

    def __init__(self, settings: VerifierSettings) -> None:
        self._settings = settings
        self._utility = AlphaFair(settings.utility_alpha)
        self.trial: PlainTrial | None = None
        self._per_second: PerSecondAllocator | None = None
        self._allocator = self._make_allocator()
        self.budget = settings.budget_tokens
        self._rows = ClientRows()
        self._account_rows = ClientRows()
        self._weights: Floats = np.zeros(0)
        self._acceptance = AcceptanceEstimator(step=settings.acceptance_step)
        self._goodput = GoodputEstimator(step=settings.goodput_step)
        self.speeds = Speeds(settings.goodput_step)
        self._plan: _Plan | None = None
        self._present: Integers = np.zeros(0, dtype=np.int64)
        self._out = 0
        self.tenants = {name: Account(name, weight) for name, weight in settings.tenants}
        for account in self.tenants.values():
            self._add_account(account)

    def _make_allocator(self) -> Allocator:
        match self._settings.allocator:
            case "gradient" if self._settings.objective == "perSecond":
                self.trial = PlainTrial(self._settings.utility_alpha)
                self._per_second = PerSecondAllocator(self._utility, rescan=_ROUNDS_BETWEEN_DEADLINES)
                return TriedAllocator(self._per_second, GradientAllocator(self._utility), self.trial)
            case "gradient":
                return GradientAllocator(self._utility)
            case "fixed":
                return FixedAllocator()
            case "random":
                return RandomAllocator(np.random.default_rng(0))

    def _add_account(self, account: Account) -> None:
        account.row = self._account_rows.add(account)
        if account.row >= len(self._weights):
            self._weights = np.pad(self._weights, (0, account.row + 16 - len(self._weights)))
        self._weights[account.row] = account.weight
        self._goodput.add(account.row)
        self.speeds.add_account(account.row)

    def add(self, client: Client) -> None:
        """Starts a drafter at the priors."""
        if self.trial is not None:
            self.trial.changed()
        client.row = self._rows.add(client)
        self._acceptance.add(client.row)
        self.speeds.add(client.row)
        self._add_account(client.account)

    def remove(self, client: Client) -> None:
        """Forgets a drafter."""
        self._acceptance.remove(self._rows.remove(client))
        row = self._account_rows.remove(client.account)
        self._goodput.remove(row)
        self.speeds.remove_account(row)
        if self.trial is not None:
            self.trial.changed()
            if not len(self._rows):
                self.trial.forget()

    def learn(self, outcomes: Outcomes, active: Many[Sequence], times: RoundTimes) -> None:
        """Takes in what a round has shown; `active` are the sequences that go on."""
        if len(outcomes):
            self._goodput.update(outcomes.accounts, outcomes.committed)
        going_on = np.array([sequence.account.row for sequence in active], dtype=np.int64)
        self.speeds.earned(outcomes.accounts, outcomes.committed, going_on, times)
        # A draft that was overtaken entirely says nothing; a sequence that drafts nothing may be tried again,
        # which those are not meant for who draft nothing for a trial only.
        tested = outcomes.drafted > 0
        if self.trial is None or not (self.trial.plain and self.trial.usual == DRAFTED):
            tested |= outcomes.idle
        if tested.any():
            drafted = outcomes.drafted[tested]
            ratios = np.clip(outcomes.soft_ratios[tested], 0, drafted)
            self._acceptance.update(outcomes.clients[tested], ratios, drafted)
        answered = outcomes.answered
        if self.trial is not None:
            drafts = int(np.count_nonzero(answered))
            played = TrialRound(
                outcomes.accounts, outcomes.committed, self._present, times.elapsed, drafts, self._out
            )
            self.trial.observe(played, self._weights)
            self._present, self._out = going_on, 0
        self.speeds.arrived(
            Arrivals(
                outcomes.clients[answered],
                outcomes.sent[answered],
                outcomes.draft_seconds[answered],
                outcomes.held_seconds[answered],
            )
        )

    def plan(self, sequences: Many[Sequence]) -> None:
        """Divides the budget by what is known before a round's verdicts, for `grant` to hand out after them.

        For while a device computes: nobody then waits for the division.
        """
        rows, accounts, caps, _ = self._columns(sequences)
        allocation = self._divide(rows, accounts, caps)
        self._plan = _Plan(
            dict(zip(sequences, allocation.grants.tolist(), strict=True)), allocation, self._plain
        )

    @property
    def _plain(self) -> bool:
        return self.trial is not None and self.trial.plain

    @property
    def planned(self) -> bool:
        """Whether `grant` has a plan to hand out: one was made, and no trial has turned since."""
        return self._plan is not None and self._plan.plain == self._plain

    def _planned(self, active: Many[Sequence], caps: Integers) -> Allocation | None:
        """The plan for who is active now, handed out once; None where there is none."""
        plan = self._plan if self.planned else None
        self._plan = None
        if plan is None:
            return None
        grants = np.array([plan.grants.get(sequence, 0) for sequence in active], dtype=np.int64)
        return replace(plan.allocation, grants=np.minimum(grants, caps))

    def _divide(self, rows: Integers, accounts: Integers, caps: Integers) -> Allocation:
        return self._allocator.allocate(
            weights=self._weights[accounts],
            acceptance=self._acceptance.estimates(rows),
            goodput=self._earned(accounts),
            caps=caps,
            budget=self.budget,
            refinements=Refinements(timing=self.speeds.timing(rows)) if self._per_second else NO_REFINEMENTS,
        )

    def _earned(self, accounts: Integers) -> Floats:
        """X of accounts, in tokens of what the objective counts them by: a second, or a round."""
        return self.speeds.goodput(accounts) if self._per_second else self._goodput.estimates(accounts)

    def grant(self, active: Many[Sequence], members: Many[bool], now: float) -> Figures:
        """Sets the grants of this round's members among all active sequences.

        Args:
            active: sequences that go on.
            members: which of them hold no grant any more.
            now: monotonic seconds at which the grants are sent.
        """
        rows, accounts, caps, in_flight = self._columns(active)
        allocation = self._planned(active, caps) or self._divide(rows, accounts, caps)
        acceptance = self._acceptance.estimates(rows)
        goodput = self._earned(accounts)
        chosen = np.array(members, dtype=bool)
        granted = member_grants(
            solved=allocation.grants, members=chosen, in_flight=in_flight, budget=self.budget
        )
        places = np.flatnonzero(chosen)
        delay, token = self.speeds.drafting(rows[places])
        due = now + delay + granted * token
        alpha = acceptance[places]
        columns = (places, granted, due, expected_goodput(alpha, granted), alpha)
        for place, *terms in zip(*(column.tolist() for column in columns), strict=True):
            active[place].allow(now, *terms)
        new = np.zeros(len(active), dtype=np.int64)
        new[places] = granted
        self._out = int(np.count_nonzero(np.where(chosen, new, in_flight)))
        return self._figures(rows, accounts, new, goodput, allocation)

    def reconsider(self) -> None:
        """Chooses anew, now and then, for how long rounds wait; for when there is time to."""
        if self._per_second is not None and not self._plain:
            self._per_second.reconsider()

    def _columns(self, active: Many[Sequence]) -> tuple[Integers, ...]:
        """Rows of drafter and account, longest sensible draft, tokens in flight; int64 `[n]` each."""
        settings = self._settings
        table = np.array(
            [
                (
                    s.client.row,
                    s.account.row,
                    s.client.max_draft_tokens,
                    s.prompt_tokens + s.max_tokens,
                    len(s.tokens),
                    s.in_flight,
                )
                for s in active
            ],
            dtype=np.int64,
        ).reshape(len(active), 6)
        rows, accounts, limit, end, size, in_flight = table.T
        # The bonus token needs a place too.
        room = np.minimum(end, settings.max_context_tokens) - size - 1
        caps = np.maximum(np.minimum(np.minimum(limit, settings.max_draft_tokens), room), 0)
        return rows, accounts, caps, in_flight

    def estimates(self, rows: Integers) -> tuple[Floats, Floats, Floats]:
        """Of drafters: acceptance, seconds to the drafter and back, and of a token; float64 `[m]` each."""
        speeds = self.speeds
        return self._acceptance.estimates(rows), speeds.round_trips(rows), speeds.drafting(rows)[1]

    def goodput(self, accounts: Many[Account]) -> Floats:
        """Tokens per round, float64 `[m]`."""
        return self._goodput.estimates(np.array([account.row for account in accounts], dtype=np.int64))

    def passes(self) -> VerificationCost:
        """T_V as measured."""
        return self.speeds.passes()

    def _figures(
        self, rows: Integers, accounts: Integers, granted: Integers, goodput: Floats, allocation: Allocation
    ) -> Figures:
        weights = self._weights[accounts]
        _, first = np.unique(accounts, return_index=True)
        each, weight = goodput[first], weights[first]
        worth = np.maximum(weights * self._utility.gradient(goodput), 1e-12)
        return Figures(
            shadow_price=allocation.shadow_price,
            utility=float((weight * self._utility.value(each)).sum()),
            jain_index=jain_index(each / weight),
            wait_seconds=allocation.wait_seconds,
            least_chance=np.minimum(allocation.token_price / worth, 1.0),
            clients=rows,
            granted=granted,
        )
