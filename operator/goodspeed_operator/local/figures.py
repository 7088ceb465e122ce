"""What the metrics of a fleet say about each of its drafters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from goodspeed_operator.cluster.scrape import Reading

_COUNTERS = (
    "drafts", "draft_tokens", "granted_tokens", "accepted_tokens", "expected_accepted_tokens",
    "emitted_tokens", "first_tokens", "rounds",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of one drafter, or their growth; tokens unless it says otherwise.

    Attributes:
        drafts: verified, a count.
        draft_tokens: drafted and verified.
        granted_tokens: allowed.
        accepted_tokens: drafted and committed.
        expected_accepted_tokens: sum of min(1, p/q) over those drafted.
        emitted_tokens: committed in all.
        first_tokens: committed by prefills.
        rounds: that verified the drafter, a count.
    """

    drafts: float = 0
    draft_tokens: float = 0
    granted_tokens: float = 0
    accepted_tokens: float = 0
    expected_accepted_tokens: float = 0
    emitted_tokens: float = 0
    first_tokens: float = 0
    rounds: float = 0

    def since(self, earlier: Counts) -> Counts:
        """The growth since an earlier reading of the same counters."""
        return Counts(*(getattr(self, name) - getattr(earlier, name) for name in _COUNTERS))

    @property
    def acceptance(self) -> float:
        """Mean of min(1, p/q) over drafted tokens; 0 when there were none."""
        return _ratio(self.expected_accepted_tokens, self.draft_tokens)

    @property
    def goodput_per_round(self) -> float:
        """Tokens committed per round that the drafter took part in."""
        return _ratio(self.emitted_tokens, self.rounds)

    @property
    def mean_grant(self) -> float:
        """Tokens granted per draft."""
        return _ratio(self.granted_tokens, self.drafts)

    @property
    def tokens_per_draft(self) -> float:
        """Tokens committed per draft, that is per sequence and round."""
        return _ratio(self.emitted_tokens - self.first_tokens, self.drafts)


@dataclass(frozen=True, slots=True)
class DrafterFigures:
    """A drafter now, as its verifier sees it.

    Attributes:
        acceptance: estimated α.
        grant: draft tokens granted and out, over all its sequences.
        goodput_per_round: smoothed tokens per round.
        goodput_per_second: tokens per second over the last seconds.
        sequences: that hold a KV slot.
        queue: sequences that wait for one.
        counts: since the drafter connected.
    """

    acceptance: float
    grant: float
    goodput_per_round: float
    goodput_per_second: float
    sequences: float
    queue: float
    counts: Counts


def drafters(readings: Iterable[Reading]) -> dict[str, DrafterFigures]:
    """Figures by drafter name, from the readings of all verifiers."""
    by_drafter: dict[str, dict[str, float]] = {}
    for reading in readings:
        for (metric, labels), value in reading.items():
            named = dict(labels)
            if "drafter" in named and "position" not in named:
                by_drafter.setdefault(named["drafter"], {})[metric] = value
    return {name: _figures(values) for name, values in by_drafter.items()}


def _figures(values: Mapping[str, float]) -> DrafterFigures:
    def gauge(name: str) -> float:
        return values.get(f"goodspeed_drafter_{name}", 0.0)

    return DrafterFigures(
        acceptance=gauge("acceptance_ratio"),
        grant=gauge("grant_tokens"),
        goodput_per_round=gauge("goodput_tokens_per_round"),
        goodput_per_second=gauge("goodput_tokens_per_second"),
        sequences=gauge("active_sequences"),
        queue=gauge("queue_length"),
        counts=Counts(*(values.get(f"goodspeed_spec_decode_{name}_total", 0.0) for name in _COUNTERS)),
    )


def rounds(readings: Iterable[Reading]) -> float:
    """Rounds of all verifiers."""
    return sum(
        value
        for reading in readings
        for (metric, labels), value in reading.items()
        if metric == "goodspeed_verifier_round_seconds_count" and ("phase", "total") in labels
    )


def jain_index(shares: Iterable[float]) -> float:
    """Jain, Chiu and Hawe's fairness index, (Σx)² / (n Σx²): 1 when all are equal, 1/n when one has all."""
    values = list(shares)
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
