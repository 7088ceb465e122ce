"""What a fleet shows over one interval, as arrays: the input of every decision."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from goodspeed_runtime.scheduling.arrays import Flags, Floats, Integers


class Fault(StrEnum):
    """Why an observation must not be acted on."""

    MISSING = "MetricsMissing"
    STALE = "MetricsStale"
    PROMETHEUS = "PrometheusError"
    ROLLING_OUT = "RollingOut"
    OBSERVING = "Observing"


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Measured seconds of a forward pass by the tokens in it.

    Attributes:
        tokens: float64 `[p]`, rising, mean tokens of passes of about the same size.
        seconds: float64 `[p]`, their mean time.
    """

    tokens: Floats = field(default_factory=lambda: np.zeros(0))
    seconds: Floats = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True)
class Cells:
    """One row a cell that serves.

    Attributes:
        names: of the verifiers.
        prices: float64 `[c]`, shadow price averaged over the interval's rounds; 0 where there were none.
        budgets: int64 `[c]`, C.
        most_budgets: int64 `[c]`, the largest C that the verifier has room for.
        curves: measured costs, one a cell; empty where nothing was measured.
        saturated: bool `[c]`, whether sequences wait for a KV slot.
        waits: float64 `[c]`, seconds that a round waited for drafts, averaged.
        overheads: float64 `[c]`, seconds of a round beside pass and waiting, averaged.
    """

    names: tuple[str, ...]
    prices: Floats
    budgets: Integers
    most_budgets: Integers
    curves: tuple[CostCurve, ...]
    saturated: Flags
    waits: Floats
    overheads: Floats

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True)
class Drafts:
    """How drafts come, one row a drafter.

    Attributes:
        shares: float64 `[n]`, of the cycles of its sequences with a draft; the others are plain decoding.
        lengths: float64 `[n]`, tokens in a draft as it came, averaged.
        seconds: float64 `[n]`, from a grant's sending to its draft's arrival, averaged.
        token_seconds: float64 `[n]`, that a drafted token more adds to that.
    """

    shares: Floats
    lengths: Floats
    seconds: Floats
    token_seconds: Floats

    def of(self, rows: Integers) -> Drafts:
        """These drafters' alone."""
        return Drafts(self.shares[rows], self.lengths[rows], self.seconds[rows], self.token_seconds[rows])


@dataclass(frozen=True, slots=True)
class Drafters:
    """One row a drafter that serves.

    Attributes:
        names: of the drafters.
        pools: int64 `[n]`, index into the observation's pools.
        cells: int64 `[n]`, index of the cell it is attached to; -1 for none.
        weights: float64 `[n]`, w in w·U(x).
        acceptance: float64 `[n]`, α over the interval, or the estimate where little was drafted.
        sequences: float64 `[n]`, its sequences in a round of its cell, averaged; 0 while it is idle.
        goodput: float64 `[n]`, its tokens in a round of its cell, averaged.
        caps: int64 `[n]`, the longest draft of one sequence.
        rates: float64 `[n]`, committed tokens per second.
        present: float64 `[n]`, share of the time in which it has sequences under way.
        drafts: how their drafts come.
    """

    names: tuple[str, ...]
    pools: Integers
    cells: Integers
    weights: Floats
    acceptance: Floats
    sequences: Floats
    goodput: Floats
    caps: Integers
    rates: Floats
    present: Floats
    drafts: Drafts

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool as its users see it.

    Attributes:
        name: of the pool.
        replicas: drafters there should be now.
        ready: drafters that serve.
        fewest, most: bounds of `replicas`; equal where nobody may scale it here.
        load: requests under way or waiting, of all its drafters, averaged.
        waiting: of these, the ones that wait for a place.
        places: requests that one drafter serves at once.
        gpus: devices of one drafter.
        cost: of one drafter, in whatever unit all pools share.
    """

    name: str
    replicas: int
    ready: int
    fewest: int
    most: int
    load: float
    waiting: float
    places: float
    gpus: int
    cost: float


@dataclass(frozen=True, slots=True)
class Observation:
    """A fleet over one interval.

    Attributes:
        time: its end, Unix seconds.
        cells: verifiers that serve.
        drafters: drafters that serve.
        pools: all pools.
        gpus: devices of the whole fleet now.
        barrier: whether rounds wait for every draft.
        fault: why nothing may be concluded from it; None where it is sound.
        words: the fault for a person.
    """

    time: float
    cells: Cells
    drafters: Drafters
    pools: tuple[Pool, ...] = ()
    gpus: int = 0
    barrier: bool = False
    fault: Fault | None = None
    words: str = ""
