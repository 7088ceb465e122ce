"""Grants of the verifier: estimates in, draft lengths out.

Holds what the scheduler's pure parts leave to their caller: which drafter and
which account has which row, and what of the budget is still in flight.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from goodspeed_runtime.scheduling.allocation import NO_REFINEMENTS, Allocation, Allocator, Refinements
from goodspeed_runtime.scheduling.baselines import FixedAllocator, RandomAllocator
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, ClientRows, GoodputEstimator
from goodspeed_runtime.scheduling.goodput import expected_goodput, jain_index
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.grants import member_grants
from goodspeed_runtime.scheduling.per_second import PerSecondAllocator
from goodspeed_runtime.scheduling.timing import VerificationCost
from goodspeed_runtime.scheduling.utility import AlphaFair
from goodspeed_runtime.verifier.sequence import Account, Client, Sequence
from goodspeed_runtime.verifier.settings import VerifierSettings
from goodspeed_runtime.verifier.speeds import Arrivals, RoundTimes, Speeds

_ROUNDS_BETWEEN_DEADLINES = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round came to for one sequence.

    Attributes:
        sequence: whose.
        drafted: tokens that were tested.
        soft_ratio: sum of min(1, p/q) over them.
        committed: tokens committed, the correction or bonus included.
        accepted: drafted tokens that stand.
        sent: tokens of the draft as it came; None where there was no draft to answer.
        draft_seconds: from the grant's sending to the draft's arrival.
        held_seconds: how much of that was the drafter's own.
        idle: it is decoded without drafts.
    """

    sequence: Sequence
    drafted: int
    soft_ratio: float
    committed: int
    accepted: int
    sent: int | None = None
    draft_seconds: float = 0.0
    held_seconds: float = 0.0
    idle: bool = False


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
    """

    shadow_price: float
    utility: float
    jain_index: float
    wait_seconds: float | None
    least_chance: npt.NDArray[np.float64]


class Grants:
    """Learns from verdicts and divides the budget among sequences.

    Attributes:
        budget: C; may change between two rounds.
        speeds: of drafters, links and passes.
        tenants: accounts by name, of whoever is named in the settings.
    """

    def __init__(self, settings: VerifierSettings) -> None:
        self._settings = settings
        self._utility = AlphaFair(settings.utility_alpha)
        self._allocator = self._make_allocator()
        self.budget = settings.budget_tokens
        self._rows = ClientRows()
        self._account_rows = ClientRows()
        self._acceptance = AcceptanceEstimator(step=settings.acceptance_step)
        self._goodput = GoodputEstimator(step=settings.goodput_step)
        self._per_second = (settings.allocator, settings.objective) == ("gradient", "perSecond")
        self.speeds = Speeds(settings.goodput_step)
        self.tenants = {name: Account(name, weight) for name, weight in settings.tenants}
        for account in self.tenants.values():
            self._add_account(account)

    def _make_allocator(self) -> Allocator:
        match self._settings.allocator:
            case "gradient" if self._settings.objective == "perSecond":
                return PerSecondAllocator(self._utility, rescan=_ROUNDS_BETWEEN_DEADLINES)
            case "gradient":
                return GradientAllocator(self._utility)
            case "fixed":
                return FixedAllocator()
            case "random":
                return RandomAllocator(np.random.default_rng(0))

    def _add_account(self, account: Account) -> None:
        account.row = self._account_rows.add(account)
        self._goodput.add(account.row)
        self.speeds.add_account(account.row)

    def add(self, client: Client) -> None:
        """Starts a drafter at the priors."""
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

    def learn(self, outcomes: Many[Outcome], active: Many[Sequence], times: RoundTimes) -> None:
        """Takes in what a round has shown; `active` are the sequences that go on."""
        accounts = np.array([outcome.sequence.account.row for outcome in outcomes], dtype=np.int64)
        committed = np.array([outcome.committed for outcome in outcomes], dtype=np.int64)
        if outcomes:
            self._goodput.update(accounts, committed)
        self.speeds.earned(accounts, committed, [sequence.account.row for sequence in active], times)
        # A draft that was overtaken entirely says nothing; a sequence that drafts nothing may be tried again.
        tested = [outcome for outcome in outcomes if outcome.drafted or outcome.idle]
        if tested:
            drafted = np.array([outcome.drafted for outcome in tested], dtype=np.int64)
            ratios = np.array([outcome.soft_ratio for outcome in tested])
            rows = np.array([outcome.sequence.client.row for outcome in tested], dtype=np.int64)
            self._acceptance.update(rows, np.clip(ratios, 0, drafted), drafted)
        answered = [outcome for outcome in outcomes if outcome.sent is not None]
        self.speeds.arrived(
            Arrivals(
                np.array([outcome.sequence.client.row for outcome in answered], dtype=np.int64),
                np.array([outcome.sent for outcome in answered], dtype=np.int64),
                np.array([outcome.draft_seconds for outcome in answered], dtype=np.float64),
                np.array([outcome.held_seconds for outcome in answered], dtype=np.float64),
            )
        )

    def grant(self, active: Many[Sequence], members: Many[bool], now: float) -> Figures:
        """Sets the grants of this round's members among all active sequences.

        Args:
            active: sequences that go on.
            members: which of them hold no grant any more.
            now: monotonic seconds at which the grants are sent.
        """
        settings = self._settings
        rows = np.array([sequence.client.row for sequence in active], dtype=np.int64)
        accounts = np.array([sequence.account.row for sequence in active], dtype=np.int64)
        weights = np.array([sequence.account.weight for sequence in active])
        caps = np.array(
            [s.longest_draft(settings.max_context_tokens, settings.max_draft_tokens) for s in active],
            dtype=np.int64,
        )
        refinements = NO_REFINEMENTS
        goodput = self._goodput.estimates(accounts)
        if self._per_second:
            refinements = Refinements(timing=self.speeds.timing(rows))
            goodput = self.speeds.goodput(accounts)
        acceptance = self._acceptance.estimates(rows)
        allocation = self._allocator.allocate(
            weights=weights,
            acceptance=acceptance,
            goodput=goodput,
            caps=caps,
            budget=self.budget,
            refinements=refinements,
        )
        chosen = np.array(members, dtype=bool)
        granted = member_grants(
            solved=allocation.grants,
            members=chosen,
            in_flight=np.array([sequence.in_flight for sequence in active], dtype=np.int64),
            budget=self.budget,
        )
        places = np.flatnonzero(chosen)
        delay, token = self.speeds.drafting(rows[places])
        due = now + delay + granted * token
        expected = expected_goodput(acceptance[places], granted)
        for place, grant, when, tokens, alpha in zip(
            places.tolist(),
            granted.tolist(),
            due.tolist(),
            expected.tolist(),
            acceptance[places].tolist(),
            strict=True,
        ):
            sequence = active[place]
            sequence.grant, sequence.granted, sequence.granted_at = grant, now, len(sequence.tokens)
            sequence.due, sequence.expected, sequence.acceptance = when, tokens, alpha
        return self._figures(accounts, weights, goodput, allocation)

    def estimates(self, client: Client) -> tuple[float, float]:
        """The drafter's acceptance, and the goodput of its own account in tokens per round."""
        acceptance = self._acceptance.estimates(np.array([client.row]))
        return float(acceptance[0]), self.goodput(client.account)

    def goodput(self, account: Account) -> float:
        """Tokens per round."""
        return float(self._goodput.estimates(np.array([account.row]))[0])

    def round_trip(self, client: Client) -> float:
        """Seconds to the drafter and back."""
        return float(self.speeds.round_trips(np.array([client.row]))[0])

    def passes(self) -> VerificationCost:
        """T_V as measured."""
        return self.speeds.passes()

    def _figures(
        self,
        rows: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float64],
        goodput: npt.NDArray[np.float64],
        allocation: Allocation,
    ) -> Figures:
        _, first = np.unique(rows, return_index=True)
        each, weight = goodput[first], weights[first]
        worth = np.maximum(weights * self._utility.gradient(goodput), 1e-12)
        return Figures(
            shadow_price=allocation.shadow_price,
            utility=float((weight * self._utility.value(each)).sum()),
            jain_index=jain_index(each / weight),
            wait_seconds=allocation.wait_seconds,
            least_chance=np.minimum(allocation.shadow_price / worth, 1.0),
        )
