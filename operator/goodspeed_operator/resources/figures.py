"""The fleet's figures, out of what its verifiers' metrics say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Reading = Mapping[tuple[str, frozenset[tuple[str, str]]], float]

_DECODE = "goodspeed_spec_decode_"


@dataclass(frozen=True, slots=True)
class CellFigures:
    """One verifier's figures; None where its metrics do not say."""

    drafters: int
    budget_tokens: int | None
    shadow_price: float | None
    goodput: float
    round_seconds: float | None
    jain_index: float | None


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """One pool's figures over all cells."""

    acceptance: float | None
    grant_tokens: float | None
    goodput: float


@dataclass(frozen=True, slots=True)
class FleetFigures:
    """All there is to show.

    Attributes:
        cells: by verifier pod; a pod whose metrics could not be read is missing.
        pools: by pool.
    """

    cells: Mapping[str, CellFigures] = field(default_factory=dict)
    pools: Mapping[str, PoolFigures] = field(default_factory=dict)

    @property
    def goodput(self) -> float:
        """Committed tokens per second of all cells."""
        return sum(cell.goodput for cell in self.cells.values())

    @property
    def jain_index(self) -> float | None:
        """Of the least fair cell."""
        found = [cell.jain_index for cell in self.cells.values() if cell.jain_index is not None]
        return min(found, default=None)


def figures_of(readings: Mapping[str, Reading]) -> FleetFigures:
    """Sums the readings of a fleet's verifiers, given by pod, up."""
    cells = {pod: _cell(reading) for pod, reading in readings.items()}
    pools = sorted({pool for reading in readings.values() for pool in _pools(reading)})
    return FleetFigures(cells, {pool: _pool(list(readings.values()), pool) for pool in pools})


def _values(reading: Reading, name: str, **labels: str) -> list[float]:
    wanted = set(labels.items())
    return [value for (metric, having), value in reading.items() if metric == name and wanted <= having]


def _first(reading: Reading, name: str, **labels: str) -> float | None:
    found = _values(reading, name, **labels)
    return found[0] if found else None


def _pools(reading: Reading) -> set[str]:
    return {
        value
        for metric, labels in reading
        if metric == "goodspeed_drafter_acceptance_ratio"
        for label, value in labels
        if label == "pool"
    }


def _cell(reading: Reading) -> CellFigures:
    budget = _first(reading, "goodspeed_verifier_budget_tokens")
    rounds = _first(reading, "goodspeed_verifier_round_seconds_count", phase="total")
    seconds = _first(reading, "goodspeed_verifier_round_seconds_sum", phase="total")
    return CellFigures(
        drafters=len(_values(reading, "goodspeed_drafter_acceptance_ratio")),
        budget_tokens=None if budget is None else int(budget),
        shadow_price=_first(reading, "goodspeed_verifier_shadow_price"),
        goodput=sum(_values(reading, "goodspeed_drafter_goodput_tokens_per_second")),
        round_seconds=seconds / rounds if rounds and seconds is not None else None,
        jain_index=_first(reading, "goodspeed_scheduler_jain_index"),
    )


def _pool(readings: list[Reading], pool: str) -> PoolFigures:
    def total(name: str) -> float:
        return sum(sum(_values(reading, name, pool=pool)) for reading in readings)

    acceptance = [
        value
        for reading in readings
        for value in _values(reading, "goodspeed_drafter_acceptance_ratio", pool=pool)
    ]
    drafts = total(f"{_DECODE}drafts_total")
    return PoolFigures(
        acceptance=sum(acceptance) / len(acceptance) if acceptance else None,
        grant_tokens=total(f"{_DECODE}draft_tokens_total") / drafts if drafts else None,
        goodput=total("goodspeed_drafter_goodput_tokens_per_second"),
    )
