"""Books what rounds come to: the verifier's metrics, written from the compute thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager

from goodspeed_runtime.metrics import VerifierMetrics, pass_size
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.verifier.grants import Figures, Grants, Outcome
from goodspeed_runtime.verifier.sequence import Client, Sequence
from goodspeed_runtime.verifier.settings import VerifierSettings

WINDOW_SECONDS = 5.0
"""Over which tokens per second are counted."""


class Ledger:
    """Counts drafts, tokens and times, per drafter where they belong to one."""

    def __init__(self, metrics: VerifierMetrics, settings: VerifierSettings) -> None:
        self._metrics = metrics
        self._cell = (settings.cluster, settings.name)
        self._positions: dict[Client, set[int]] = {}
        self._recent: dict[Client, deque[tuple[float, int]]] = {}
        self.budget(settings.budget_tokens)
        metrics.budget_limit.labels(*self._cell).set(settings.most_budget)
        metrics.kv_slots.labels(*self._cell).set(settings.max_sequences)

    def budget(self, tokens: int) -> None:
        """C has changed."""
        self._metrics.budget_tokens.labels(*self._cell).set(tokens)

    def slots_used(self, count: Callable[[], int]) -> None:
        """Slots come free between rounds too, so they are counted when somebody looks."""
        self._metrics.kv_slots_used.labels(*self._cell).set_function(count)

    def _labels(self, client: Client) -> tuple[str, str, str, str]:
        return *self._cell, client.pool, client.name

    def add(self, client: Client) -> None:
        """Starts a drafter's series."""
        self._positions[client] = set()
        self._recent[client] = deque()
        self._metrics.add_client(self._labels(client))
        self._watch(client)

    def remove(self, client: Client) -> None:
        """Ends a drafter's series."""
        del self._recent[client]
        self._metrics.remove_client(self._labels(client), self._positions.pop(client))

    def error(self, code: pb.ErrorCode) -> None:
        """A sequence or stream ended by an error."""
        self._metrics.errors.labels(*self._cell, pb.ErrorCode.Name(code)).inc()

    def phase(self, name: str, seconds: float) -> None:
        """Part of a round's time."""
        self._metrics.round_seconds.labels(*self._cell, name).observe(seconds)

    def first_token(self, client: Client) -> None:
        """A prefill has given a token."""
        self._metrics.first_tokens.labels(*self._labels(client)).inc()
        self._emitted(client, 1)

    def granted(self, sequence: Sequence) -> None:
        """A sequence was told its grant."""
        self._metrics.granted_tokens.labels(*self._labels(sequence.client)).inc(sequence.grant)

    @contextmanager
    def solving(self) -> Iterator[None]:
        """Times the allocator."""
        started = time.perf_counter()
        yield
        self._metrics.solve_seconds.labels(*self._cell).observe(time.perf_counter() - started)

    def scheduled(self, figures: Figures) -> None:
        """What the scheduler sees after a round."""
        self._metrics.shadow_price.labels(*self._cell).set(figures.shadow_price)
        self._metrics.round_shadow_price.labels(*self._cell).observe(figures.shadow_price)
        self._metrics.utility.labels(*self._cell).set(figures.utility)
        self._metrics.jain_index.labels(*self._cell).set(figures.jain_index)

    def round(
        self,
        outcomes: Many[Outcome],
        *,
        tokens: int,
        forward: float,
        schedule: float,
        clients: Collection[Client],
        grants: Grants,
    ) -> None:
        """One round is over."""
        metrics = self._metrics
        self.phase("forward", forward)
        self.phase("schedule", schedule)
        self.phase("total", forward + schedule)
        metrics.round_tokens.labels(*self._cell).observe(tokens)
        size = pass_size(tokens)
        metrics.pass_seconds.labels(*self._cell, size).observe(forward)
        metrics.pass_tokens.labels(*self._cell, size).inc(tokens)
        for client in {outcome.sequence.client for outcome in outcomes} & set(self._recent):
            metrics.client_rounds.labels(*self._labels(client)).inc()
        for outcome in outcomes:
            self._outcome(outcome)
        for client in clients:
            self._gauges(client, grants)
            under_way = sum(sequence.opened for sequence in client.sequences.values())
            metrics.sequence_rounds.labels(*self._labels(client)).inc(under_way)

    def _outcome(self, outcome: Outcome) -> None:
        client = outcome.sequence.client
        labels = self._labels(client)
        self._metrics.drafts.labels(*labels).inc()
        self._metrics.draft_tokens.labels(*labels).inc(outcome.drafted)
        self._metrics.accepted_tokens.labels(*labels).inc(outcome.accepted)
        self._metrics.expected_accepted_tokens.labels(*labels).inc(outcome.soft_ratio)
        for position in range(outcome.accepted):
            self._positions[client].add(position)
            self._metrics.accepted_per_position.labels(*labels, str(position)).inc()
        self._emitted(client, outcome.committed)

    def _emitted(self, client: Client, count: int) -> None:
        self._metrics.emitted_tokens.labels(*self._labels(client)).inc(count)
        recent, now = self._recent[client], time.monotonic()
        recent.append((now, count))
        while recent[0][0] < now - WINDOW_SECONDS:
            recent.popleft()

    def _gauges(self, client: Client, grants: Grants) -> None:
        labels = self._labels(client)
        acceptance, goodput = grants.estimates(client)
        self._metrics.acceptance.labels(*labels).set(acceptance)
        self._metrics.goodput_round.labels(*labels).set(goodput)

    def _watch(self, client: Client) -> None:
        """Gauges that must stay true while no round runs are read off the client when scraped."""
        labels = self._labels(client)
        recent = self._recent[client]

        def per_second() -> float:
            since = time.monotonic() - WINDOW_SECONDS
            return sum(count for when, count in list(recent) if when >= since) / WINDOW_SECONDS

        def live() -> list[Sequence]:
            return list(client.sequences.values())

        metrics = self._metrics
        metrics.goodput_second.labels(*labels).set_function(per_second)
        metrics.grant.labels(*labels).set_function(lambda: sum(s.grant for s in live()))
        metrics.active_sequences.labels(*labels).set_function(lambda: sum(s.slot >= 0 for s in live()))
        metrics.queue_length.labels(*labels).set_function(lambda: sum(s.slot < 0 for s in live()))
