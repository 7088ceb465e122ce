"""What a round came to, one column a figure and one entry a sequence: learnt from and booked as arrays."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

UNANSWERED = -1
Row = tuple[int, int, int, float, int, int, int, float, float, float, bool]
"""The entries of one sequence, in the order of `Outcomes`' columns."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Verdicts of one round, float64 and int64 `[n]` each.

    Attributes:
        clients: rows of the drafters.
        accounts: rows of whom the tokens are for.
        drafted: tokens that were tested.
        soft_ratios: sum of min(1, p/q) over them.
        committed: tokens committed, the correction or bonus included.
        accepted: drafted tokens that stand.
        sent: tokens of the draft as it came; `UNANSWERED` where there was no draft to answer.
        draft_seconds: from the grant's sending to the draft's arrival.
        held_seconds: how much of that was the drafter's own.
        cycle_seconds: since the last verdict; 0 where its draft is still out.
        idle: whether it is decoded without drafts.
    """

    clients: Integers
    accounts: Integers
    drafted: Integers
    soft_ratios: Floats
    committed: Integers
    accepted: Integers
    sent: Integers
    draft_seconds: Floats
    held_seconds: Floats
    cycle_seconds: Floats
    idle: Flags

    @classmethod
    def of(cls, rows: Many[Row]) -> Outcomes:
        """From one row a sequence."""
        table = np.array(rows, dtype=np.float64).reshape(len(rows), 11).T
        clients, accounts, drafted, committed, accepted, sent = table[[0, 1, 2, 4, 5, 6]].astype(np.int64)
        return cls(
            clients=clients,
            accounts=accounts,
            drafted=drafted,
            soft_ratios=table[3],
            committed=committed,
            accepted=accepted,
            sent=sent,
            draft_seconds=table[7],
            held_seconds=table[8],
            cycle_seconds=table[9],
            idle=table[10] > 0,
        )

    def __len__(self) -> int:
        return len(self.clients)

    @property
    def answered(self) -> Flags:
        """Which of them answer a draft."""
        return np.asarray(self.sent != UNANSWERED)
