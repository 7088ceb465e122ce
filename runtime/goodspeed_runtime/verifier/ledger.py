"""Books what rounds come to: the verifier's metrics, written from the compute thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass, field

from goodspeed_runtime.metrics import VerifierMetrics, pass_size
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.verifier.grants import Figures, Grants, Outcome
from goodspeed_runtime.verifier.sequence import Account, Client, Sequence
from goodspeed_runtime.verifier.settings import VerifierSettings

WINDOW_SECONDS = 5.0
"""Over which tokens per second are counted."""


@dataclass(slots=True)
class _Page:
    """What one drafter has come to since it was last booked: looking a series up costs more than adding."""

    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    ratio: float = 0.0
    emitted: int = 0
    granted: int = 0
    first: int = 0
    plain: int = 0
    positions: list[int] = field(default_factory=list)

    def accept(self, count: int) -> None:
        """A draft of which so many tokens stand."""
        for position in range(count):
            if position == len(self.positions):
                self.positions.append(0)
            self.positions[position] += 1


class Ledger:
    """Counts drafts, tokens and times, per drafter where they belong to one."""

    def __init__(self, metrics: VerifierMetrics, settings: VerifierSettings) -> None:
        self._metrics = metrics
        self._cell = (settings.cluster, settings.name)
        self._positions: dict[Client, set[int]] = {}
        self._recent: dict[Client, deque[tuple[float, int]]] = {}
        self._pages: dict[Client, _Page] = {}
        self._tenants: dict[Account, int] = {}
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
        """Starts a drafter's series."""
        self._positions[client] = set()
        self._recent[client] = deque()
        self._pages[client] = _Page()
        self._metrics.add_client(self._labels(client))
        self._watch(client)

    def remove(self, client: Client) -> None:
        """Ends a drafter's series."""
        del self._recent[client]
        del self._pages[client]
        self._metrics.remove_client(self._labels(client), self._positions.pop(client))

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
        self._metrics.received_bytes.labels(*self._cell).inc(count)

    def phase(self, name: str, seconds: float) -> None:
        """Part of a round's time."""
        self._metrics.round_seconds.labels(*self._cell, name).observe(seconds)

    def first_token(self, sequence: Sequence) -> None:
        """A prefill has given a token."""
        self._pages[sequence.client].first += 1
        self._emitted(sequence, 1)

    def prompt_tokens(self, source: str, count: int) -> None:
        """Tokens were fed, or found in the cache, before a sequence could go on."""
        if count:
            self._metrics.prompt_tokens.labels(*self._cell, source).inc(count)

    def preempted(self) -> None:
        """A sequence has lost its slot to another account's."""
        self._metrics.preemptions.labels(*self._cell).inc()

    def granted(self, sequence: Sequence) -> None:
        """A sequence was told its grant."""
        self._pages[sequence.client].granted += sequence.grant

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
        sent_bytes: int,
    ) -> None:
        """One round is over."""
        metrics = self._metrics
        self.phase("forward", forward)
        self.phase("schedule", schedule)
        self.phase("total", forward + schedule)
        metrics.round_tokens.labels(*self._cell).observe(tokens)
        metrics.sent_bytes.labels(*self._cell).inc(sent_bytes)
        size = pass_size(tokens)
        metrics.pass_seconds.labels(*self._cell, size).observe(forward)
        metrics.pass_tokens.labels(*self._cell, size).inc(tokens)
        for outcome in outcomes:
            self._outcome(outcome)
        for account, count in self._tenants.items():
            labels = (*self._cell, account.name)
            if count:
                metrics.tenant_emitted_tokens.labels(*labels).inc(count)
                self._tenants[account] = 0
            metrics.tenant_goodput.labels(*labels).set(grants.goodput(account))
        for client in clients:
            self._book(client, grants)

    def _outcome(self, outcome: Outcome) -> None:
        page = self._pages.get(outcome.sequence.client)
        if page is None:
            return
        if outcome.sent is not None:
            page.drafts += 1
            page.drafted += outcome.drafted
            page.ratio += outcome.soft_ratio
            page.accepted += outcome.accepted
            page.accept(outcome.accepted)
        else:
            page.plain += outcome.committed
        self._emitted(outcome.sequence, outcome.committed)

    def _emitted(self, sequence: Sequence, count: int) -> None:
        self._pages[sequence.client].emitted += count
        if sequence.account in self._tenants:
            self._tenants[sequence.account] += count

    def _book(self, client: Client, grants: Grants) -> None:
        metrics, labels, page = self._metrics, self._labels(client), self._pages[client]
        self._pages[client] = _Page()
        under_way = sum(sequence.opened for sequence in client.sequences.values())
        metrics.sequence_rounds.labels(*labels).inc(under_way)
        if page.drafts:
            metrics.client_rounds.labels(*labels).inc()
            metrics.drafts.labels(*labels).inc(page.drafts)
            metrics.draft_tokens.labels(*labels).inc(page.drafted)
            metrics.expected_accepted_tokens.labels(*labels).inc(page.ratio)
            metrics.accepted_tokens.labels(*labels).inc(page.accepted)
        for position, count in enumerate(page.positions):
            self._positions[client].add(position)
            metrics.accepted_per_position.labels(*labels, str(position)).inc(count)
        for counter, count in (
            (metrics.first_tokens, page.first),
            (metrics.plain_tokens, page.plain),
            (metrics.granted_tokens, page.granted),
            (metrics.emitted_tokens, page.emitted),
        ):
            if count:
                counter.labels(*labels).inc(count)
        if page.emitted:
            recent, now = self._recent[client], time.monotonic()
            recent.append((now, page.emitted))
            while recent[0][0] < now - WINDOW_SECONDS:
                recent.popleft()
        if page.drafts or page.emitted:
            acceptance, goodput = grants.estimates(client)
            metrics.acceptance.labels(*labels).set(acceptance)
            metrics.goodput_round.labels(*labels).set(goodput)
            metrics.round_trip.labels(*labels).set(grants.round_trip(client))

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
