"""Grants of the verifier: estimates in, draft lengths out.

Holds what the scheduler's pure parts leave to their caller: which client has
which row, and what of the budget is still in flight.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from goodspeed_runtime.scheduling.allocation import NO_REFINEMENTS, Allocation, Allocator, Refinements
from goodspeed_runtime.scheduling.baselines import FixedAllocator, RandomAllocator
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, ClientRows, GoodputEstimator
from goodspeed_runtime.scheduling.goodput import jain_index
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.grants import member_grants
from goodspeed_runtime.scheduling.per_second import PerSecondAllocator
from goodspeed_runtime.scheduling.utility import AlphaFair
from goodspeed_runtime.verifier.sequence import Client, Sequence
from goodspeed_runtime.verifier.settings import VerifierSettings
from goodspeed_runtime.verifier.speeds import RoundTimes, Speeds

_ROUNDS_BETWEEN_DEADLINES = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one sequence's draft came to in a round.

    Attributes:
        sequence: whose draft it was.
        drafted: tokens in it.
        soft_ratio: sum of min(1, p/q) over them.
        committed: tokens committed, the correction or bonus included.
        accepted: drafted tokens that stand.
        draft_seconds: from the grant's sending to the draft's arrival.
    """

    sequence: Sequence
    drafted: int
    soft_ratio: float
    committed: int
    accepted: int
    draft_seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The scheduler's view after a round.

    Attributes:
        shadow_price: utility that one more token of budget would add.
        utility: of the clients' goodput, summed.
        jain_index: of goodput per weight.
        wait_seconds: after these verdicts, until the next round; None where nobody has chosen.
    """

    shadow_price: float
    utility: float
    jain_index: float
    wait_seconds: float | None


class Grants:
    """Learns from verdicts and divides the budget among sequences.

    Attributes:
        budget: C; may change between two rounds.
    """

    def __init__(self, settings: VerifierSettings) -> None:
        self._settings = settings
        self._utility = AlphaFair(settings.utility_alpha)
        self._allocator = self._make_allocator()
        self.budget = settings.budget_tokens
        self._rows = ClientRows()
        self._acceptance = AcceptanceEstimator(step=settings.acceptance_step)
        self._goodput = GoodputEstimator(step=settings.goodput_step)
        per_second = (settings.allocator, settings.objective) == ("gradient", "perSecond")
        self._speeds = Speeds(settings.goodput_step) if per_second else None

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

    def add(self, client: Client) -> None:
        """Starts a client at the priors."""
        client.row = self._rows.add(client)
        self._acceptance.add(client.row)
        self._goodput.add(client.row)
        if self._speeds is not None:
            self._speeds.add(client.row)

    def remove(self, client: Client) -> None:
        """Forgets a client."""
        row = self._rows.remove(client)
        self._acceptance.remove(row)
        self._goodput.remove(row)
        if self._speeds is not None:
            self._speeds.remove(row)

    def learn(self, outcomes: Many[Outcome], active: Many[Sequence], times: RoundTimes) -> None:
        """Takes in what a round has shown; `active` are the sequences that will draft again."""
        rows = np.array([outcome.sequence.client.row for outcome in outcomes], dtype=np.int64)
        drafted = np.array([outcome.drafted for outcome in outcomes], dtype=np.int64)
        committed = np.array([outcome.committed for outcome in outcomes], dtype=np.int64)
        if outcomes:
            ratios = np.array([outcome.soft_ratio for outcome in outcomes])
            self._acceptance.update(rows, np.clip(ratios, 0, drafted), drafted)
            self._goodput.update(rows, committed)
        if self._speeds is not None:
            self._speeds.learn(
                rows,
                drafted,
                committed,
                np.array([outcome.draft_seconds for outcome in outcomes]),
                active=[sequence.client.row for sequence in active],
                times=times,
            )

    def grant(self, active: Many[Sequence], members: Many[bool]) -> Figures:
        """Sets the grants of this round's members among all active sequences.

        Args:
            active: sequences that will draft again.
            members: which of them were verified or opened in this round.
        """
        settings = self._settings
        rows = np.array([sequence.client.row for sequence in active], dtype=np.int64)
        weights = np.array([sequence.client.weight for sequence in active])
        caps = np.array(
            [s.longest_draft(settings.max_context_tokens, settings.max_draft_tokens) for s in active],
            dtype=np.int64,
        )
        refinements = NO_REFINEMENTS
        goodput = self._goodput.estimates(rows)
        if self._speeds is not None:
            refinements = Refinements(timing=self._speeds.timing(rows))
            goodput = self._speeds.goodput(rows)
        allocation = self._allocator.allocate(
            weights=weights,
            acceptance=self._acceptance.estimates(rows),
            goodput=goodput,
            caps=caps,
            budget=self.budget,
            refinements=refinements,
        )
        chosen = np.array(members, dtype=bool)
        granted = member_grants(
            solved=allocation.grants,
            members=chosen,
            in_flight=np.array([sequence.grant for sequence in active], dtype=np.int64),
            budget=self.budget,
        )
        for index, grant in zip(np.flatnonzero(chosen), granted, strict=True):
            active[int(index)].grant = int(grant)
        return self._figures(rows, weights, goodput, allocation)

    def estimates(self, client: Client) -> tuple[float, float]:
        """The client's acceptance, and its goodput in tokens per round."""
        row = np.array([client.row])
        return float(self._acceptance.estimates(row)[0]), float(self._goodput.estimates(row)[0])

    def _figures(
        self,
        rows: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float64],
        goodput: npt.NDArray[np.float64],
        allocation: Allocation,
    ) -> Figures:
        _, first = np.unique(rows, return_index=True)
        each, weight = goodput[first], weights[first]
        return Figures(
            shadow_price=allocation.shadow_price,
            utility=float((weight * self._utility.value(each)).sum()),
            jain_index=jain_index(each / weight),
            wait_seconds=allocation.wait_seconds,
        )
