"""What changes have really brought: utility of tokens per second, drafter by drafter."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.rebalancing.observation import Observation
from goodspeed_runtime.scheduling.utility import AlphaFair

BUSY = 0.02
"""Sequences in a round below which a drafter counts as idle."""


@dataclass(frozen=True, slots=True)
class Earning:
    """One drafter in one interval.

    Attributes:
        cell: where it was.
        present: share of the time in which it took part in rounds.
        weight: in the utility.
        rate: tokens per second while it took part.
        goodput: tokens in a round in which it took part.
    """

    cell: str
    present: float
    weight: float
    rate: float
    goodput: float


def earnings(observation: Observation) -> dict[str, Earning]:
    """Of every drafter that is attached, by name; the rate of an idle one is 0."""
    drafters, names = observation.drafters, observation.cells.names
    found = {}
    for row in np.flatnonzero(drafters.cells >= 0).tolist():
        present, taking_part = float(drafters.present[row]), min(float(drafters.sequences[row]), 1.0)
        busy = min(present, taking_part) > BUSY
        found[drafters.names[row]] = Earning(
            cell=names[drafters.cells[row]],
            present=present if busy else 0.0,
            weight=float(drafters.weights[row]),
            rate=float(drafters.rates[row]) / present if busy else 0.0,
            goodput=float(drafters.goodput[row]) / taking_part if busy else 0.0,
        )
    return found


def gained(
    before: Mapping[str, Earning],
    after: Mapping[str, Earning],
    fairness: float,
    cells: Collection[str] | None = None,
) -> float:
    """Σ w·[U(x after) − U(x before)], x in tokens per second.

    Only drafters busy in both intervals count, each as much as it was there before: load that came or went is
    neither gain nor loss.

    Args:
        before: what drafters earned in one interval.
        after: and in the other.
        fairness: α of the utility.
        cells: where drafters must have been before to count; None for all, and then whoever is new counts
            with the utility of its tokens a round, as is expected of a pool that grows.
    """
    utility = AlphaFair(fairness)

    def value(tokens: float) -> float:
        return float(utility.value(np.array(tokens)))

    gain = 0.0
    for name, then in after.items():
        was = before.get(name)
        if then.rate <= 0:
            continue
        if was is None:
            gain += then.present * then.weight * value(then.goodput) if cells is None else 0.0
        elif was.rate > 0 and (cells is None or was.cell in cells):
            gain += was.present * was.weight * (value(then.rate) - value(was.rate))
    return gain
