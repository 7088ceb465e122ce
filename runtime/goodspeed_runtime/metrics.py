"""Every metric of the runtime, its name and labels, once (docs/metrics.md explains them).

The verifier knows what became of each draft, so the figures of speculation are
its, labelled by cell and drafter; the drafter knows its users, so requests are
its. A drafter's series vanish with its stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    disable_created_metrics,
    exposition,
)
from prometheus_client.core import Metric

# When a series began is Prometheus' to know; a gauge beside each counter would double what there is.
disable_created_metrics()  # type: ignore[no-untyped-call]

CELL_LABELS = ("cluster", "cell")
CLIENT_LABELS = ("cluster", "pool", "drafter")
ATTACHED_LABELS = ("cluster", "cell", "pool", "drafter")
TENANT_LABELS = ("cluster", "cell", "tenant")
_ROUND_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.4, 0.8, 2, 5)
_TOKEN_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30, 60)


def pass_size(tokens: int) -> str:
    """Label of a pass of so many tokens: the power of two that it fits."""
    return str(1 << max(0, tokens - 1).bit_length())


def expose(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The registry's text and its content type: OpenMetrics, with exemplars, for whoever accepts it."""
    encoder, content_type = exposition.choose_encoder(accept)
    return encoder(registry), content_type


class FreshRegistry(CollectorRegistry):
    """A registry that has its metrics brought up to date before it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.update: Callable[[], None] = lambda: None

    def collect(self) -> Iterable[Metric]:
        """See `CollectorRegistry.collect`."""
        self.update()
        return super().collect()


class VerifierMetrics:
    """What a verifier exposes."""

    def __init__(self) -> None:
        self.registry = FreshRegistry()

        def per_client(name: str, text: str, *more: str) -> Counter:
            return Counter(
                f"goodspeed_spec_decode_{name}", text, [*ATTACHED_LABELS, *more], registry=self.registry
            )

        def client_gauge(name: str, text: str) -> Gauge:
            return Gauge(f"goodspeed_drafter_{name}", text, ATTACHED_LABELS, registry=self.registry)

        def verifier_gauge(name: str, text: str) -> Gauge:
            return Gauge(f"goodspeed_{name}", text, CELL_LABELS, registry=self.registry)

        self.drafts = per_client("drafts", "Drafts verified, those of no tokens included.")
        self.draft_tokens = per_client("draft_tokens", "Drafted tokens verified.")
        self.granted_tokens = per_client("granted_tokens", "Draft tokens granted.")
        self.accepted_tokens = per_client("accepted_tokens", "Drafted tokens committed.")
        self.expected_accepted_tokens = per_client(
            "expected_accepted_tokens",
            "Sum of min(1, p/q) over drafted tokens; over draft_tokens, the acceptance.",
        )
        self.emitted_tokens = per_client(
            "emitted_tokens", "Tokens committed, first and bonus tokens included."
        )
        self.first_tokens = per_client("first_tokens", "Tokens committed by a prefill rather than a draft.")
        self.plain_tokens = per_client(
            "plain_tokens", "Tokens committed without a draft: none was granted, or it was late."
        )
        self.late_tokens = per_client(
            "late_tokens", "Plain tokens committed while a draft was out: it was late."
        )
        self.received_tokens = per_client(
            "received_tokens", "Drafted tokens received, those that verdicts had overtaken included."
        )
        self.draft_seconds = per_client("draft_seconds", "Seconds from grants to their drafts.")
        self.cycle_seconds = per_client(
            "cycle_seconds", "Seconds from verdict to verdict of each sequence; their rate is its sequences."
        )
        self.client_rounds = per_client(
            "rounds", "Rounds that verified at least one of the drafter's drafts."
        )
        self.sequence_rounds = per_client(
            "sequence_rounds",
            "Rounds, each times the drafter's sequences under way; over rounds, their mean.",
        )
        self.accepted_per_position = per_client(
            "accepted_tokens_per_pos", "Drafted tokens committed, by position in the draft.", "position"
        )
        self.acceptance = client_gauge("acceptance_ratio", "Estimated acceptance of a drafted token.")
        self.goodput_round = client_gauge(
            "goodput_tokens_per_round", "Smoothed tokens committed per round: X in the paper's equation 5."
        )
        self.goodput_second = client_gauge(
            "goodput_tokens_per_second", "Tokens committed per second over the last seconds."
        )
        self.round_trip = client_gauge(
            "round_trip_seconds", "Time from a grant to its draft, less what the drafter took for it."
        )
        self.token_seconds = client_gauge(
            "token_seconds", "Estimated time that one more drafted token takes."
        )
        self.grant = client_gauge("grant_tokens", "Draft tokens granted and not yet verified.")
        self.active_sequences = client_gauge("active_sequences", "Sequences that hold a KV slot.")
        self.queue_length = client_gauge("queue_length", "Sequences that wait for a KV slot.")
        self.round_seconds = Histogram(
            "goodspeed_verifier_round_seconds",
            "Seconds of a round, by phase.",
            [*CELL_LABELS, "phase"],
            buckets=_ROUND_BUCKETS,
            registry=self.registry,
        )
        self.round_tokens = Histogram(
            "goodspeed_verifier_round_tokens",
            "Tokens fed to the target in a round.",
            CELL_LABELS,
            buckets=_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self.pass_seconds = Summary(
            "goodspeed_verifier_pass_seconds",
            "Seconds of the target's forward passes, by the power of two that their tokens fit.",
            [*CELL_LABELS, "size"],
            registry=self.registry,
        )
        self.pass_tokens = Counter(
            "goodspeed_verifier_pass_tokens",
            "Tokens of the target's forward passes, by the power of two that they fit.",
            [*CELL_LABELS, "size"],
            registry=self.registry,
        )
        self.round_shadow_price = Summary(
            "goodspeed_verifier_round_shadow_price",
            "The shadow price after each round; sum over count is its mean.",
            CELL_LABELS,
            registry=self.registry,
        )
        self.budget_tokens = verifier_gauge("verifier_budget_tokens", "Draft tokens allowed in flight, C.")
        self.budget_limit = verifier_gauge(
            "verifier_budget_limit_tokens", "The largest budget that this process has room for."
        )
        self.shadow_price = verifier_gauge(
            "verifier_shadow_price", "What one more token of budget would be worth, in utility."
        )
        self.kv_slots = verifier_gauge("verifier_kv_slots", "KV slots there are.")
        self.kv_slots_used = verifier_gauge("verifier_kv_slots_used", "KV slots in use.")
        self.prompt_tokens = Counter(
            "goodspeed_verifier_prompt_tokens",
            "Tokens of prompts, and of sequences reopened or preempted, by where their KV came from.",
            [*CELL_LABELS, "source"],
            registry=self.registry,
        )
        self.preemptions = Counter(
            "goodspeed_verifier_preemptions",
            "Times that a sequence gave its KV slot up for one of another account.",
            CELL_LABELS,
            registry=self.registry,
        )
        self.utility = verifier_gauge(
            "scheduler_utility", "Sum of weighted utility of the drafters' goodput."
        )
        self.jain_index = verifier_gauge(
            "scheduler_jain_index", "Jain's fairness index of goodput per weight."
        )
        self.plain = verifier_gauge(
            "scheduler_plain",
            "1 while nobody is granted anything, since users were found to get more a second without drafts.",
        )
        self.plain_ratio = verifier_gauge(
            "scheduler_plain_ratio",
            "Goodput without drafts over goodput with them, as last compared; 1 before.",
        )
        self.trial_seconds = Counter(
            "goodspeed_scheduler_trial_seconds",
            "Seconds in which the way that is not in use, drafts or none, was tried.",
            CELL_LABELS,
            registry=self.registry,
        )
        self.solve_seconds = Histogram(
            "goodspeed_scheduler_solve_seconds",
            "Seconds to divide the budget.",
            CELL_LABELS,
            buckets=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2),
            registry=self.registry,
        )
        self.sent_bytes = Counter(
            "goodspeed_verifier_sent_bytes",
            "Bytes of verdicts sent; over emitted tokens, bytes per committed token.",
            CELL_LABELS,
            registry=self.registry,
        )
        self.received_bytes = Counter(
            "goodspeed_verifier_received_bytes",
            "Bytes of drafters' frames; over emitted tokens, bytes per committed token.",
            CELL_LABELS,
            registry=self.registry,
        )
        self.tenant_emitted_tokens = Counter(
            "goodspeed_tenant_emitted_tokens",
            "Tokens committed for a tenant, whichever drafters it came by.",
            TENANT_LABELS,
            registry=self.registry,
        )
        self.tenant_goodput = Gauge(
            "goodspeed_tenant_goodput_tokens_per_round",
            "Smoothed tokens committed per round for a tenant.",
            TENANT_LABELS,
            registry=self.registry,
        )
        self.tenant_sequences = Gauge(
            "goodspeed_tenant_active_sequences",
            "A tenant's sequences that hold a KV slot.",
            TENANT_LABELS,
            registry=self.registry,
        )
        self.tenant_weight = Gauge(
            "goodspeed_tenant_weight",
            "A tenant's weight in the utility.",
            TENANT_LABELS,
            registry=self.registry,
        )
        self.errors = Counter(
            "goodspeed_verifier_errors",
            "Sequences and streams ended by an error, by its code.",
            [*CELL_LABELS, "code"],
            registry=self.registry,
        )
        self._per_client = (
            self.drafts, self.draft_tokens, self.granted_tokens, self.accepted_tokens,
            self.expected_accepted_tokens, self.emitted_tokens,
            self.first_tokens, self.plain_tokens, self.late_tokens, self.received_tokens, self.draft_seconds,
            self.cycle_seconds, self.client_rounds, self.sequence_rounds,
            self.acceptance, self.goodput_round, self.goodput_second, self.round_trip, self.token_seconds,
            self.grant, self.active_sequences, self.queue_length,
        )  # fmt: skip

    def add_client(self, labels: tuple[str, str, str, str]) -> None:
        """Starts a drafter's series at zero, so that rates count its first tokens."""
        for metric in self._per_client:
            metric.labels(*labels)

    def remove_client(self, labels: tuple[str, str, str, str], positions: Iterable[int]) -> None:
        """Ends a drafter's series; ``positions`` are those at which it ever had a token accepted."""
        for metric in self._per_client:
            metric.remove(*labels)
        for position in positions:
            self.accepted_per_position.remove(*labels, str(position))


class DrafterMetrics:
    """What a drafter exposes; its own name is on every series."""

    def __init__(
        self, cluster: str, pool: str, drafter: str, registry: CollectorRegistry | None = None
    ) -> None:
        self.registry = registry or CollectorRegistry()
        labels = (cluster, pool, drafter)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, CLIENT_LABELS, registry=self.registry).labels(*labels)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, CLIENT_LABELS, registry=self.registry).labels(*labels)

        def latency(name: str, text: str) -> Histogram:
            return Histogram(
                name, text, CLIENT_LABELS, buckets=_LATENCY_BUCKETS, registry=self.registry
            ).labels(*labels)

        self._requests = Counter(
            "goodspeed_request",
            "Requests, by how they ended.",
            [*CLIENT_LABELS, "code"],
            registry=self.registry,
        )
        self._labels = labels
        self.first_token_seconds = latency(
            "goodspeed_request_ttft_seconds", "Seconds from a request to its first token."
        )
        self.inter_token_seconds = latency(
            "goodspeed_request_inter_token_seconds", "Seconds between the tokens of an answer."
        )
        self.sequences = gauge("goodspeed_drafter_sequences", "Answers being generated.")
        self.waiting = gauge("goodspeed_drafter_waiting_requests", "Answers that wait for a place.")
        self.places = gauge("goodspeed_drafter_places", "Answers generated at once at most.")
        self.moves = counter("goodspeed_drafter_moves", "Moves to another verifier that it was asked for.")
        self.prompt_tokens = counter("goodspeed_request_prompt_tokens", "Tokens of prompts.")
        self.completion_tokens = counter("goodspeed_request_completion_tokens", "Tokens of answers.")
        self.connected = gauge(
            "goodspeed_drafter_connected", "1 while the verifier has welcomed this drafter."
        )
        self.reconnects = counter("goodspeed_drafter_reconnects", "Connections made to a verifier.")
        self.unused_grant_tokens = counter(
            "goodspeed_drafter_unused_grant_tokens",
            "Granted tokens that were not drafted: they would not have paid.",
        )
        self._ahead = Counter(
            "goodspeed_drafter_ahead_tokens",
            "Tokens drafted while a verdict was under way, by whether it confirmed what they follow.",
            [*CLIENT_LABELS, "result"],
            registry=self.registry,
        )
        for result in ("kept", "dropped"):
            self._ahead.labels(*labels, result)
        self.draft_seconds = Histogram(
            "goodspeed_drafter_draft_seconds",
            "Seconds of one call of the draft engine.",
            CLIENT_LABELS,
            buckets=_ROUND_BUCKETS,
            registry=self.registry,
        ).labels(*labels)

    def ahead(self, kept: int, dropped: int) -> None:
        """Counts tokens drafted ahead."""
        self._ahead.labels(*self._labels, "kept").inc(kept)
        self._ahead.labels(*self._labels, "dropped").inc(dropped)

    def finished(self, code: int) -> None:
        """Counts a request by its HTTP status."""
        self._requests.labels(*self._labels, str(code)).inc()
