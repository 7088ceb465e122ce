"""A fleet's metrics over one interval, wherever they were read: rates of counters, values of gauges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from goodspeed_runtime.rebalancing.observation import Fault

Labels = frozenset[tuple[str, str]]
Series = Mapping[tuple[str, Labels], float]

OURS = frozenset({"cell", "pool", "drafter", "phase", "size"})
"""Labels that tell a cluster's series apart; a scraper's own (instance, job, pod) are left out."""

RATES = (
    "goodspeed_verifier_round_seconds_count",
    "goodspeed_verifier_round_seconds_sum",
    "goodspeed_verifier_round_shadow_price_sum",
    "goodspeed_verifier_round_shadow_price_count",
    "goodspeed_verifier_pass_seconds_sum",
    "goodspeed_verifier_pass_seconds_count",
    "goodspeed_verifier_pass_tokens_total",
    "goodspeed_spec_decode_drafts_total",
    "goodspeed_spec_decode_draft_tokens_total",
    "goodspeed_spec_decode_expected_accepted_tokens_total",
    "goodspeed_spec_decode_emitted_tokens_total",
    "goodspeed_spec_decode_sequence_rounds_total",
    "goodspeed_spec_decode_plain_tokens_total",
    "goodspeed_spec_decode_late_tokens_total",
    "goodspeed_spec_decode_received_tokens_total",
    "goodspeed_spec_decode_draft_seconds_total",
    "goodspeed_spec_decode_cycle_seconds_total",
)
TOTALS = (
    "goodspeed_verifier_pass_seconds_sum",
    "goodspeed_verifier_pass_seconds_count",
    "goodspeed_verifier_pass_tokens_total",
)
"""Counters whose values since their beginning matter too: what a pass of a size costs that was seldom run."""
GAUGES = (
    "goodspeed_verifier_budget_tokens",
    "goodspeed_verifier_budget_limit_tokens",
    "goodspeed_drafter_acceptance_ratio",
    "goodspeed_drafter_queue_length",
    "goodspeed_drafter_round_trip_seconds",
    "goodspeed_drafter_token_seconds",
)
POOL_GAUGES = (
    "goodspeed_drafter_sequences",
    "goodspeed_drafter_waiting_requests",
    "goodspeed_drafter_places",
)


class UnusableError(Exception):
    """Metrics could not be had, or must not be trusted.

    Attributes:
        fault: which of the known troubles it is.
    """

    def __init__(self, fault: Fault, words: str) -> None:
        super().__init__(words)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Sample:
    """One interval.

    Attributes:
        rates: of counters, per second over the interval.
        gauges: at its end, or their mean over it.
        totals: of some counters, their values at its end.
    """

    rates: Series = field(default_factory=dict)
    gauges: Series = field(default_factory=dict)
    totals: Series = field(default_factory=dict)

    def rate(self, name: str, **labels: str) -> float | None:
        """One series' rate."""
        return self.rates.get((name, frozenset(labels.items())))

    def gauge(self, name: str, **labels: str) -> float | None:
        """One series' value."""
        return self.gauges.get((name, frozenset(labels.items())))

    def named(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """All series of a gauge."""
        return ((dict(labels), value) for (metric, labels), value in self.gauges.items() if metric == name)

    def total(self, name: str, **labels: str) -> float | None:
        """One counter's value."""
        return self.totals.get((name, frozenset(labels.items())))

    def rates_named(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """All series of a counter."""
        return ((dict(labels), value) for (metric, labels), value in self.rates.items() if metric == name)


def ours(labels: Mapping[str, str]) -> Labels:
    """The labels that are the metrics' own, without those of a scraper."""
    return frozenset((name, value) for name, value in labels.items() if name in OURS)


def chosen(reading: Series) -> Series:
    """What of a pod's reading decisions are made of, by our labels."""
    wanted = {*RATES, *GAUGES, *POOL_GAUGES}
    return {(name, ours(dict(labels))): value for (name, labels), value in reading.items() if name in wanted}


def between(before: Series, after: Series, seconds: float) -> Sample:
    """The sample of two readings of the same pods.

    A counter that has fallen was reset: what it shows is what came since. A series that was not there
    before began at zero.
    """
    rates, gauges, totals = {}, {}, {}
    for (name, labels), value in after.items():
        if name in RATES:
            was = before.get((name, labels), 0.0)
            if name in TOTALS:
                totals[name, labels] = value
            rates[name, labels] = (value - was if value >= was else value) / seconds
        else:
            gauges[name, labels] = value
    return Sample(rates, gauges, totals)
