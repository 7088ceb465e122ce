"""What allocators know of a client: smoothed acceptance and goodput. Who the clients are, the caller knows.

Rows are clients. `ClientRows` deals them out and takes them back, so that estimators that share it share
the rows.
"""

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from goodspeed_runtime.scheduling.arrays import Floats, Integers

FLOOR, CEILING = 0.01, 0.99
_PATIENCE = 30


class ClientRows:
    """Which client has which row; a departed client's row is dealt out again."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, int] = {}
        self._free: list[int] = []

    def add(self, client: Hashable) -> int:
        """A row for a client that has none.

        Raises:
            KeyError: The client has a row already.
        """
        if client in self._rows:
            raise KeyError(f"client {client!r} has row {self._rows[client]} already")
        row = self._free.pop() if self._free else len(self._rows)
        self._rows[client] = row
        return row

    def remove(self, client: Hashable) -> int:
        """Takes the client's row back and says which it was.

        Raises:
            KeyError: The client has no row.
        """
        row = self._rows.pop(client)
        self._free.append(row)
        return row

    def __getitem__(self, client: Hashable) -> int:
        return self._rows[client]

    def __contains__(self, client: Hashable) -> bool:
        return client in self._rows

    def __len__(self) -> int:
        return len(self._rows)


class _Smoothed:
    """Estimates by row, and which rows are in use; grows as rows are added."""

    def __init__(self) -> None:
        self._estimate: Floats = np.zeros(0)
        self._present: NDArray[np.bool_] = np.zeros(0, np.bool_)

    def _start(self, row: int, value: float) -> None:
        if row >= len(self._estimate):
            more = max(row + 1, 2 * len(self._estimate), 16) - len(self._estimate)
            self._estimate = np.concatenate([self._estimate, np.zeros(more)])
            self._present = np.concatenate([self._present, np.zeros(more, np.bool_)])
        self._estimate[row] = value
        self._present[row] = True

    def remove(self, row: int) -> None:
        """Forgets the row's client; it counts in no average from here on."""
        self._present[row] = False

    def estimates(self, rows: Integers) -> Floats:
        """float64 `[m]`, the estimates of `rows` (int64 `[m]`, repeats allowed)."""
        return self._estimate[rows]


class AcceptanceEstimator(_Smoothed):
    """α̂ ← (1 − η)·α̂ + η·mean(min(1, p/q)) over the positions drafted in the round (PAPER, Algorithm 1).

    A round without drafted tokens gives no ratio: α̂ then drifts slowly to the prior, so that a client once
    thought hopeless is tried again. Estimates stay inside [0.01, 0.99], since mu(S) has no
    limit at α = 1.
    """

    def __init__(
        self,
        *,
        step: float = 0.1,
        decay: float | None = None,
        prior: float = 0.6,
        idle_step: float = 0.01,
    ) -> None:
        """With `decay` a the t-th round with drafts steps by max(step, (t + 10)^−a), as in Theorem 1.

        Then α̂ is doubted only after thirty rounds without a draft in a row, since who drafts now and then has
        evidence enough, and by idle_step/(1 + k/10) after k such rounds in all: who was thought hopeless by
        bad luck is tried again, time and again, yet ever more rarely.
        """
        _check_decay(decay)
        for name, value in (("step", step), ("idle_step", idle_step)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must lie in [0, 1]")
        if not FLOOR <= prior <= CEILING:
            raise ValueError(f"prior is {prior}; it must lie in [{FLOOR}, {CEILING}]")
        super().__init__()
        self._step, self._prior, self._idle_step = step, prior, idle_step
        self._decay = decay
        self._updates: Floats = np.zeros(0)
        self._idle_rounds: Floats = np.zeros(0)
        self._idle_run: Floats = np.zeros(0)

    def add(self, row: int, estimate: float | None = None) -> None:
        """Starts a row at `estimate`, or at the prior."""
        start = self._prior if estimate is None else estimate
        self._start(row, min(max(start, FLOOR), CEILING))
        self._updates = _restarted(self._updates, len(self._estimate), row)
        self._idle_rounds = _restarted(self._idle_rounds, len(self._estimate), row)
        self._idle_run = _restarted(self._idle_run, len(self._estimate), row)

    def update(
        self, rows: Integers, ratio_sums: Floats, drafted: Integers, *, distinct: bool = False
    ) -> None:
        """One round's evidence; several sequences of one client are one average over all their positions.

        Args:
            rows: int64 `[m]`, the client of each sequence.
            ratio_sums: float64 `[m]`, Σ min(1, p/q) over the sequence's drafted positions.
            drafted: int64 `[m]`, how many those were.
            distinct: The caller knows that no client is listed twice.

        Raises:
            ValueError: A sum is not finite, negative or above its count.
        """
        self._check(ratio_sums, drafted)
        clients, (sums, counts) = by_client(rows, ratio_sums, drafted, distinct=distinct)
        old = self._estimate[clients]
        if self._decay is None and counts.min(initial=1) > 0:
            new = old + self._step * (sums / counts - old)
        else:
            seen = counts > 0
            step: float | Floats = self._step
            idle_step: float | Floats = self._idle_step
            if self._decay is not None:
                self._updates[clients] += seen
                self._idle_rounds[clients] += ~seen
                step = np.maximum(step, (self._updates[clients] + 10) ** -self._decay)
                run = np.where(seen, 0, self._idle_run[clients] + 1)
                self._idle_run[clients] = run
                idle_step = np.where(run > _PATIENCE, idle_step / (1 + self._idle_rounds[clients] / 10), 0)
            goal = np.where(seen, sums / np.maximum(counts, 1), self._prior)
            new = old + np.where(seen, step, idle_step) * (goal - old)
        self._estimate[clients] = np.minimum(np.maximum(new, FLOOR), CEILING)

    @staticmethod
    def _check(ratio_sums: Floats, drafted: Integers) -> None:
        if len(drafted) and not np.minimum(ratio_sums, drafted - ratio_sums + 1e-6).min() >= 0:
            raise ValueError("ratio_sums must lie in [0, drafted]: each ratio is min(1, p/q)")


class GoodputEstimator(_Smoothed):
    """X ← (1 − β)·X + β·x, with x the tokens the client committed in the round, bonus included (PAPER §III).

    A new client starts at the mean of those present (1 if it is the first), so that it is neither favoured
    nor made to wait while its own average settles.
    """

    def __init__(self, *, step: float = 0.1, decay: float | None = None) -> None:
        """With `decay` b a client's t-th update steps by max(step, t^−b), as in Theorem 1 of the paper."""
        if not 0 <= step <= 1:
            raise ValueError(f"step is {step}; it must lie in [0, 1]")
        _check_decay(decay)
        super().__init__()
        self._step: float | Floats = step
        self._decay = decay
        self._updates: Floats = np.zeros(0)

    def add(self, row: int, estimate: float | None = None) -> None:
        """Starts a row at `estimate`, in tokens, or at the mean of the present clients."""
        if estimate is None:
            estimate = float(self._estimate[self._present].mean()) if self._present.any() else 1.0
        self._start(row, estimate)
        self._updates = _restarted(self._updates, len(self._estimate), row)

    def update(self, rows: Integers, committed: Floats | Integers, *, distinct: bool = False) -> None:
        """One round's tokens, or tokens per second: rows int64 `[m]`, committed `[m]`.

        Repeated rows are summed, unless the caller knows them to be `distinct`.
        A client that should count as having got nothing this round is listed with 0; one left out keeps its
        X.
        """
        clients, (tokens,) = by_client(rows, committed, distinct=distinct)
        step = self._step
        if self._decay is not None:
            self._updates[clients] += 1
            step = np.maximum(step, self._updates[clients] ** -self._decay)
        old = self._estimate[clients]
        self._estimate[clients] = old + step * (tokens - old)


def _check_decay(decay: float | None) -> None:
    if decay is not None and not 0.5 < decay <= 1:
        raise ValueError(f"decay is {decay}; it must lie in (0.5, 1]")


def _restarted(updates: Floats, size: int, row: int) -> Floats:
    """The counts of updates, grown to `size`, with the row's at 0."""
    if len(updates) < size:
        updates = np.pad(updates, (0, size - len(updates)))
    updates[row] = 0
    return updates


def by_client(
    rows: Integers, *columns: Floats | Integers, distinct: bool = False
) -> tuple[Integers, tuple[Floats, ...]]:
    """Sums `columns` over the rows that are the same client; distinct or rising rows need no work."""
    if distinct or len(rows) < 2 or (rows[1:] > rows[:-1]).all():
        return rows, tuple([np.asarray(column, np.float64) for column in columns])
    clients, place = np.unique(rows, return_inverse=True)
    return clients, tuple(
        np.asarray(np.bincount(place, column, len(clients)), np.float64) for column in columns
    )
