"""Grants of the verifier: estimates in, draft lengths out.

Holds what the scheduler's pure parts leave to their caller: which client has
which row, and what of the budget is still in flight.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from goodspeed_runtime.scheduling.allocation import Allocator
from goodspeed_runtime.scheduling.baselines import FixedAllocator, RandomAllocator
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, ClientRows, GoodputEstimator
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.grants import member_grants
from goodspeed_runtime.scheduling.utility import AlphaFair
from goodspeed_runtime.verifier.sequence import Client, Sequence
from goodspeed_runtime.verifier.settings import VerifierSettings


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one sequence's draft came to in a round.

    Attributes:
        sequence: whose draft it was.
        drafted: tokens in it.
        soft_ratio: sum of min(1, p/q) over them.
        committed: tokens committed, the correction or bonus included.
        accepted: drafted tokens that stand.
    """

    sequence: Sequence
    drafted: int
    soft_ratio: float
    committed: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Figures:
    """The scheduler's view after a round, for metrics."""

    shadow_price: float
    utility: float
    jain_index: float


class Grants:
    """Learns from verdicts and divides the budget among sequences."""

    def __init__(self, settings: VerifierSettings) -> None:
        self._settings = settings
        self._utility = AlphaFair(settings.utility_alpha)
        self._allocator = self._make_allocator()
        self._rows = ClientRows()
        self._acceptance = AcceptanceEstimator(step=settings.acceptance_step)
        self._goodput = GoodputEstimator(step=settings.goodput_step)

    def _make_allocator(self) -> Allocator:
        match self._settings.allocator:
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

    def remove(self, client: Client) -> None:
        """Forgets a client."""
        row = self._rows.remove(client)
        self._acceptance.remove(row)
        self._goodput.remove(row)

    def learn(self, outcomes: Many[Outcome]) -> None:
        """Takes in what a round has shown."""
        if not outcomes:
            return
        rows = np.array([outcome.sequence.client.row for outcome in outcomes])
        drafted = np.array([outcome.drafted for outcome in outcomes])
        ratios = np.array([outcome.soft_ratio for outcome in outcomes])
        self._acceptance.update(rows, np.clip(ratios, 0, drafted), drafted)
        self._goodput.update(rows, np.array([outcome.committed for outcome in outcomes]))

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
        goodput = self._goodput.estimates(rows)
        allocation = self._allocator.allocate(
            weights=weights,
            acceptance=self._acceptance.estimates(rows),
            goodput=goodput,
            caps=caps,
            budget=settings.budget_tokens,
        )
        chosen = np.array(members, dtype=bool)
        granted = member_grants(
            solved=allocation.grants,
            members=chosen,
            in_flight=np.array([sequence.grant for sequence in active], dtype=np.int64),
            budget=settings.budget_tokens,
        )
        for index, grant in zip(np.flatnonzero(chosen), granted, strict=True):
            active[int(index)].grant = int(grant)
        return self._figures(rows, weights, allocation.shadow_price)

    def estimates(self, client: Client) -> tuple[float, float]:
        """The client's acceptance, and its goodput in tokens per round."""
        row = np.array([client.row])
        return float(self._acceptance.estimates(row)[0]), float(self._goodput.estimates(row)[0])

    def _figures(
        self, rows: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], shadow_price: float
    ) -> Figures:
        clients, first = np.unique(rows, return_index=True)
        goodput = self._goodput.estimates(clients)
        weight = weights[first]
        share = goodput / weight
        jain = float(share.sum() ** 2 / (share.size * (share**2).sum())) if share.any() else 1.0
        return Figures(shadow_price, float((weight * self._utility.value(goodput)).sum()), jain)
