"""Books what rounds come to: the verifier's metrics.

The compute thread adds a round to arrays, all drafters at once. The series are
written from them before they are read: a round costs the same whether anybody looks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import Counter, Gauge

from goodspeed_runtime.metrics import VerifierMetrics, pass_size
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.verifier.grants import Figures, Grants
from goodspeed_runtime.verifier.outcomes import Floats, Outcomes
from goodspeed_runtime.verifier.sequence import Account, Client, Sequence
from goodspeed_runtime.verifier.settings import VerifierSettings

WINDOW_SECONDS = 5.0
"""Over which tokens per second are counted."""
_MARK_SECONDS = 0.25
"""Counts of the window's beginning and end are kept so often."""
(
    _DRAFTS, _DRAFTED, _RATIO, _ACCEPTED, _EMITTED, _FIRST, _PLAIN, _GRANTED, _UNDER_WAY, _ROUNDS,
    _LATE, _RECEIVED, _SECONDS, _CYCLES,
) = range(14)  # fmt: skip
"""Rows of `Ledger._pages`, what drafters have come to since it was last booked."""


@dataclass(slots=True, eq=False)
class _Series:
    """One drafter's series, looked up once: that costs more than adding to them."""

    client: Client
    labels: tuple[str, str, str, str]
    counters: list[Counter]
    acceptance: Gauge
    goodput: Gauge
    round_trip: Gauge
    token_seconds: Gauge
    positions: list[Counter] = field(default_factory=list)


class Ledger:
    """Counts drafts, tokens and times, per drafter where they belong to one."""

    def __init__(self, metrics: VerifierMetrics, settings: VerifierSettings) -> None:
        self._metrics = metrics
        self._cell = (settings.cluster, settings.name)
        self._series: list[_Series | None] = []
        self._counters = (
            metrics.drafts,
            metrics.draft_tokens,
            metrics.expected_accepted_tokens,
            metrics.accepted_tokens,
            metrics.emitted_tokens,
            metrics.first_tokens,
            metrics.plain_tokens,
            metrics.granted_tokens,
            metrics.sequence_rounds,
            metrics.client_rounds,
            metrics.late_tokens,
            metrics.received_tokens,
            metrics.draft_seconds,
            metrics.cycle_seconds,
        )
        self._pages = np.zeros((len(self._counters), 0))
        self._stood = np.zeros((0, max(settings.max_draft_tokens, 1) + 1), dtype=np.int64)
        self._lock = threading.Lock()
        self._grants: Grants | None = None
        self._committed = np.zeros(0)
        self._marks: deque[tuple[float, Floats]] = deque()
        self._latest = 0.0
        metrics.registry.update = self.book
        self._received = metrics.received_bytes.labels(*self._cell)
        self._sent = metrics.sent_bytes.labels(*self._cell)
        self._phases = {
            phase: metrics.round_seconds.labels(*self._cell, phase)
            for phase in ("gather", "forward", "schedule", "total")
        }
        self._tenants: dict[Account, int] = {}
        self._plain = metrics.plain.labels(*self._cell)
        self._plain_ratio = metrics.plain_ratio.labels(*self._cell)
        self._plain_ratio.set(1)
        self._trial_seconds = metrics.trial_seconds.labels(*self._cell)
        self._tried = 0.0
        self.budget(settings.budget_tokens)
        metrics.budget_limit.labels(*self._cell).set(settings.most_budget)
        metrics.kv_slots.labels(*self._cell).set(settings.max_sequences)
        metrics.preemptions.labels(*self._cell)
        for source in ("computed", "shared"):
            metrics.prompt_tokens.labels(*self._cell, source)

    def budget(self, tokens: int) -> None:
        """C has changed."""
        self._metrics.budget_tokens.labels(*self._cell).set(tokens)

    def slots_used(self, count: Callable[[], int]) -> None:
        """Slots come free between rounds too, so they are counted when somebody looks."""
        self._metrics.kv_slots_used.labels(*self._cell).set_function(count)

    def _labels(self, client: Client) -> tuple[str, str, str, str]:
        return *self._cell, client.pool, client.name

    def add(self, client: Client) -> None:
        """Starts a drafter's series; it has its row."""
        metrics, labels = self._metrics, self._labels(client)
        metrics.add_client(labels)
        with self._lock:
            self._start(client.row)
        series = self._series[client.row] = _Series(
            client,
            labels,
            [counter.labels(*labels) for counter in self._counters],
            metrics.acceptance.labels(*labels),
            metrics.goodput_round.labels(*labels),
            metrics.round_trip.labels(*labels),
            metrics.token_seconds.labels(*labels),
        )
        self._watch(series)

    def _start(self, row: int) -> None:
        if row >= len(self._series):
            self._series += [None] * (row + 16 - len(self._series))
            more = len(self._series) - self._pages.shape[1]
            self._pages = np.pad(self._pages, ((0, 0), (0, more)))
            self._stood = np.pad(self._stood, ((0, more), (0, 0)))
            self._committed = np.pad(self._committed, (0, more))
            self._marks = deque((when, np.pad(counts, (0, more))) for when, counts in self._marks)
        self._pages[:, row] = self._stood[row] = self._committed[row] = 0
        for _, counts in self._marks:
            counts[row] = 0

    def remove(self, client: Client) -> None:
        """Ends a drafter's series."""
        self.book()
        series = self._series[client.row]
        assert series is not None
        self._pages[:, client.row] = 0
        self._series[client.row] = None
        self._metrics.remove_client(series.labels, range(len(series.positions)))

    def add_tenant(self, account: Account) -> None:
        """Starts a tenant's series."""
        self._tenants[account] = 0
        labels = (*self._cell, account.name)
        self._metrics.tenant_emitted_tokens.labels(*labels)
        self._metrics.tenant_weight.labels(*labels).set(account.weight)
        self._metrics.tenant_sequences.labels(*labels).set_function(lambda: account.held)

    def error(self, code: pb.ErrorCode) -> None:
        """A sequence or stream ended by an error."""
        self._metrics.errors.labels(*self._cell, pb.ErrorCode.Name(code)).inc()

    def received(self, count: int) -> None:
        """A frame of so many bytes has come from a drafter."""
        self._received.inc(count)

    def phase(self, name: str, seconds: float) -> None:
        """Part of a round's time."""
        self._phases[name].observe(seconds)

    def first_token(self, sequence: Sequence) -> None:
        """A prefill has given a token."""
        with self._lock:
            self._pages[[_FIRST, _EMITTED], sequence.client.row] += 1
            self._committed[sequence.client.row] += 1
        if sequence.account in self._tenants:
            self._tenants[sequence.account] += 1

    def prompt_tokens(self, source: str, count: int) -> None:
        """Tokens were fed, or found in the cache, before a sequence could go on."""
        if count:
            self._metrics.prompt_tokens.labels(*self._cell, source).inc(count)

    def preempted(self) -> None:
        """A sequence has lost its slot to another account's."""
        self._metrics.preemptions.labels(*self._cell).inc()

    @contextmanager
    def solving(self) -> Iterator[None]:
        """Times the allocator."""
        started = time.perf_counter()
        yield
        self._metrics.solve_seconds.labels(*self._cell).observe(time.perf_counter() - started)

    def scheduled(self, figures: Figures) -> None:
        """What the scheduler sees after a round."""
        with self._lock:
            size = self._pages.shape[1]
            self._pages[_GRANTED] += np.bincount(figures.clients, figures.granted, size)
            self._pages[_UNDER_WAY] += np.bincount(figures.clients, minlength=size)
        self._metrics.shadow_price.labels(*self._cell).set(figures.shadow_price)
        self._metrics.round_shadow_price.labels(*self._cell).observe(figures.shadow_price)
        self._metrics.utility.labels(*self._cell).set(figures.utility)
        self._metrics.jain_index.labels(*self._cell).set(figures.jain_index)

    def round(
        self,
        outcomes: Outcomes,
        *,
        tokens: int,
        forward: float,
        schedule: float,
        grants: Grants,
        sent_bytes: int,
    ) -> None:
        """One round is over."""
        metrics = self._metrics
        self._phases["forward"].observe(forward)
        self._phases["schedule"].observe(schedule)
        self._phases["total"].observe(forward + schedule)
        metrics.round_tokens.labels(*self._cell).observe(tokens)
        self._sent.inc(sent_bytes)
        size = pass_size(tokens)
        metrics.pass_seconds.labels(*self._cell, size).observe(forward)
        metrics.pass_tokens.labels(*self._cell, size).inc(tokens)
        if self._tenants:
            self._book_tenants(outcomes, grants)
        with self._lock:
            self._grants = grants
            self._add(outcomes)
            self._mark(time.monotonic())

    def _book_tenants(self, outcomes: Outcomes, grants: Grants) -> None:
        metrics = self._metrics
        most = max(account.row for account in self._tenants) + 1
        ours = outcomes.accounts < most
        committed = np.bincount(outcomes.accounts[ours], outcomes.committed[ours], most)
        goodput = grants.goodput(list(self._tenants)).tolist()
        for (account, first), mean in zip(list(self._tenants.items()), goodput, strict=True):
            labels = (*self._cell, account.name)
            metrics.tenant_emitted_tokens.labels(*labels).inc(first + committed[account.row])
            metrics.tenant_goodput.labels(*labels).set(mean)
            self._tenants[account] = 0

    def _add(self, outcomes: Outcomes) -> None:
        pages, size = self._pages, self._pages.shape[1]
        answered = outcomes.answered
        theirs, alone = outcomes.clients[answered], outcomes.clients[~answered]
        accepted = outcomes.accepted[answered]
        drafts = np.bincount(theirs, minlength=size)
        pages[_DRAFTS] += drafts
        pages[_ROUNDS] += drafts > 0
        pages[_DRAFTED] += np.bincount(theirs, outcomes.drafted[answered], size)
        pages[_RATIO] += np.bincount(theirs, outcomes.soft_ratios[answered], size)
        pages[_ACCEPTED] += np.bincount(theirs, accepted, size)
        pages[_PLAIN] += np.bincount(alone, outcomes.committed[~answered], size)
        late = ~answered & ~outcomes.idle
        pages[_LATE] += np.bincount(outcomes.clients[late], outcomes.committed[late], size)
        pages[_RECEIVED] += np.bincount(theirs, outcomes.sent[answered], size)
        pages[_SECONDS] += np.bincount(theirs, outcomes.draft_seconds[answered], size)
        pages[_CYCLES] += np.bincount(outcomes.clients, outcomes.cycle_seconds, size)
        committed = np.bincount(outcomes.clients, outcomes.committed, size)
        pages[_EMITTED] += committed
        self._committed += committed
        width = self._stood.shape[1]
        places = theirs * width + accepted
        self._stood += np.bincount(places, minlength=size * width).reshape(size, width)

    def book(self) -> None:
        """Brings the series up to date; from any thread."""
        with self._lock:
            if self._grants is None:
                return
            rows = np.flatnonzero(self._pages.any(axis=0))
            acceptance, trips, token_seconds = self._grants.estimates(rows)
            series = [self._series[row] for row in rows.tolist()]
            goodput = self._grants.goodput([each.client.account for each in series if each is not None])
            # Whoever had a tokens accepted had one at each of the first a positions.
            reached = self._stood[rows, ::-1].cumsum(axis=1)[:, -2::-1]
            columns = (self._pages[:, rows].T, reached, acceptance, trips, goodput, token_seconds)
            for each, (page, passed, *means) in zip(
                series, zip(*(column.tolist() for column in columns), strict=True), strict=True
            ):
                assert each is not None
                self._write(each, page, passed, means)
            self._pages[:] = 0
            self._stood[:] = 0
            if (trial := self._grants.trial) is not None:
                self._plain.set(trial.usual)
                self._plain_ratio.set(trial.ratio)
                tried = trial.tried_seconds
                self._trial_seconds.inc(tried - self._tried)
                self._tried = tried

    def _write(self, series: _Series, page: list[float], passed: list[int], means: list[float]) -> None:
        for counter, count in zip(series.counters, page, strict=True):
            if count:
                counter.inc(count)
        for position, count in enumerate(passed):
            if not count:
                break
            if position == len(series.positions):
                labels = (*series.labels, str(position))
                series.positions.append(self._metrics.accepted_per_position.labels(*labels))
            series.positions[position].inc(count)
        if page[_EMITTED]:
            for gauge, mean in zip(
                (series.acceptance, series.round_trip, series.goodput, series.token_seconds),
                means,
                strict=True,
            ):
                gauge.set(mean)

    def _mark(self, now: float) -> None:
        """Remembers what has been committed until now, and what had been when the window began."""
        marks, self._latest = self._marks, now
        if not marks or now - marks[-1][0] >= _MARK_SECONDS:
            marks.append((now, self._committed.copy()))
            while len(marks) > 1 and marks[1][0] <= now - WINDOW_SECONDS:
                marks.popleft()

    def _per_second(self, row: int) -> float:
        """Tokens a second that a drafter got over the window."""
        since = time.monotonic() - WINDOW_SECONDS
        with self._lock:
            if self._latest <= since:
                return 0.0
            before = 0.0
            for when, counts in self._marks:
                if when > since:
                    break
                before = float(counts[row])
            return (float(self._committed[row]) - before) / WINDOW_SECONDS

    def _watch(self, series: _Series) -> None:
        """Gauges that must stay true while no round runs are read off the client when scraped."""
        client, labels = series.client, series.labels

        def live() -> list[Sequence]:
            return list(client.sequences.values())

        metrics = self._metrics
        metrics.goodput_second.labels(*labels).set_function(lambda: self._per_second(client.row))
        metrics.grant.labels(*labels).set_function(lambda: sum(s.grant for s in live()))
        metrics.active_sequences.labels(*labels).set_function(lambda: sum(s.slot >= 0 for s in live()))
        metrics.queue_length.labels(*labels).set_function(lambda: sum(s.slot < 0 for s in live()))
