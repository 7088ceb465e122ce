"""From a sample of metrics and the pods there are to what is decided on; what does not fit is a fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from goodspeed_operator.api.cluster import GoodSpeedCluster, Spec
from goodspeed_operator.api.drafters import DrafterPool
from goodspeed_operator.api.scalars import amount, seconds
from goodspeed_operator.rebalance.sample import Sample, UnusableError
from goodspeed_runtime.rebalancing.decision import Limits
from goodspeed_runtime.rebalancing.observation import (
    Cells,
    CostCurve,
    Drafters,
    Drafts,
    Fault,
    Observation,
    Pool,
)
from goodspeed_runtime.scheduling.arrays import Floats, Integers

LEAST_SHARE = 0.9
"""Of the drafters that must be in the metrics; a few may just be on their way from cell to cell."""
LEAST_DRAFTED = 20.0
"""Tokens in an interval, below which acceptance is the verifier's estimate rather than their mean."""
LONGEST_DRAFT = 16
PLACES = 16.0
CORE_COST = 0.05
"""Of one CPU, in GPUs."""

_DECODE = "goodspeed_spec_decode_"


@dataclass(frozen=True, slots=True)
class Place:
    """A pod that serves.

    Attributes:
        name: of the pod.
        url: of its HTTP server.
        pool: of a drafter.
    """

    name: str
    url: str
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Members:
    """The pods there are, from whoever runs them.

    Attributes:
        cells: verifiers that serve the target that drafters are attached to.
        drafters: drafters that serve.
        replicas: drafters that each pool should have now.
        ready: drafters of each pool that serve.
        scalable: pools that may be resized here.
        unsettled: why nothing should be moved now, such as a rollout; empty while all is calm.
    """

    cells: tuple[Place, ...] = ()
    drafters: tuple[Place, ...] = ()
    replicas: Mapping[str, int] = field(default_factory=dict)
    ready: Mapping[str, int] = field(default_factory=dict)
    scalable: frozenset[str] = frozenset()
    unsettled: str = ""


def limits_of(spec: Spec, interval: float) -> Limits:
    """What the spec allows."""
    rebalance, verifier = spec.rebalance, spec.verifier
    return Limits(
        hysteresis=rebalance.hysteresis,
        # The next interval shows how a change was made, and only the one after it what came of it.
        cooldown=max(seconds(rebalance.cooldown), 1.99 * interval),
        moves=rebalance.caps.moves_per_interval,
        gpus=rebalance.caps.gpus,
        drafters=rebalance.caps.drafters,
        automatic_budget=verifier.budget_tokens == "auto",
        latency=None if verifier.latency_target is None else seconds(verifier.latency_target),
        fairness=spec.scheduler.utility.alpha,
    )


def scalable_pools(spec: Spec) -> frozenset[str]:
    """Pools whose size rebalancing may choose."""
    return frozenset(
        pool.name for pool in spec.drafters if pool.scaling == "Managed" and pool.fewest < pool.most
    )


def observe(
    cluster: GoodSpeedCluster, members: Members, sample: Sample, now: float, window: float
) -> Observation:
    """The fleet over one interval.

    Args:
        cluster: whose fleet it is.
        members: the pods that should be in the sample.
        sample: of their metrics.
        now: Unix seconds.
        window: seconds of the interval.

    Raises:
        UnusableError: the sample does not show the fleet.
    """
    if members.unsettled:
        raise UnusableError(Fault.ROLLING_OUT, members.unsettled)
    names = tuple(sorted(cell.name for cell in members.cells))
    if not names:
        raise UnusableError(Fault.MISSING, "no verifier serves")
    cells = Cells(
        names=names,
        prices=np.array([_price(sample, name) for name in names]),
        budgets=_of_cells(sample, "goodspeed_verifier_budget_tokens", names),
        most_budgets=_of_cells(sample, "goodspeed_verifier_budget_limit_tokens", names),
        curves=tuple(_curve(sample, name) for name in names),
        saturated=np.array([_waiting(sample, name) > 0 for name in names]),
        waits=np.array([_phase(sample, name, "gather") for name in names]),
        overheads=np.array([_phase(sample, name, "schedule") for name in names]),
    )
    drafters = _drafters(cluster.spec, members, sample, names, window)
    pools = tuple(_pool(pool, members, sample) for pool in cluster.spec.drafters)
    gpus = len(names) * cluster.spec.verifier.resources.gpus + sum(
        pool.replicas * pool.gpus for pool in pools
    )
    return Observation(now, cells, drafters, pools, gpus, barrier=cluster.spec.verifier.barrier)


def _of_cells(sample: Sample, name: str, cells: Sequence[str]) -> Integers:
    return np.array([_needed(sample, name, cell) for cell in cells], np.int64)


def _needed(sample: Sample, name: str, cell: str) -> float:
    value = sample.gauge(name, cell=cell)
    if value is None:
        raise UnusableError(Fault.MISSING, f"no {name} of {cell}")
    return value


def _rounds(sample: Sample, cell: str) -> float:
    """Rounds a second."""
    value = sample.rate("goodspeed_verifier_round_seconds_count", cell=cell, phase="total")
    if value is None:
        # A verifier that has not run a round yet has no such series; one that has no budget is not there.
        _needed(sample, "goodspeed_verifier_budget_tokens", cell)
        return 0.0
    return value


def _phase(sample: Sample, cell: str, phase: str) -> float:
    """Seconds of a part of a round, on average."""
    labels = {"cell": cell, "phase": phase}
    count = sample.rate("goodspeed_verifier_round_seconds_count", **labels)
    total = sample.rate("goodspeed_verifier_round_seconds_sum", **labels)
    return total / count if count and total else 0.0


def _price(sample: Sample, cell: str) -> float:
    count = sample.rate("goodspeed_verifier_round_shadow_price_count", cell=cell)
    total = sample.rate("goodspeed_verifier_round_shadow_price_sum", cell=cell)
    if not count or total is None:
        return 0.0
    return total / count


def _waiting(sample: Sample, cell: str) -> float:
    found = sample.named("goodspeed_drafter_queue_length")
    return sum(value for labels, value in found if labels.get("cell") == cell)


def _curve(sample: Sample, cell: str) -> CostCurve:
    """T_V: passes of a size as they were in this interval, or where there were none, as they ever were."""
    points = []
    for labels, passes in sample.rates_named("goodspeed_verifier_pass_seconds_count"):
        if labels.get("cell") != cell:
            continue
        place = {"cell": cell, "size": labels.get("size", "")}
        read = sample.rate if passes > 0 else sample.total
        count = read("goodspeed_verifier_pass_seconds_count", **place)
        taken = read("goodspeed_verifier_pass_seconds_sum", **place)
        tokens = read("goodspeed_verifier_pass_tokens_total", **place)
        if count and taken and tokens:
            points.append((tokens / count, taken / count))
    points.sort()
    return CostCurve(np.array([point[0] for point in points]), np.array([point[1] for point in points]))


def _attachments(sample: Sample, cells: Sequence[str]) -> dict[str, int]:
    """The cell of each drafter; one that shows in two is between them, and in neither."""
    found: dict[str, int] = {}
    for labels, _ in sample.named("goodspeed_drafter_acceptance_ratio"):
        name, cell = labels.get("drafter", ""), labels.get("cell", "")
        if cell in cells:
            found[name] = -1 if name in found else cells.index(cell)
    return found


def _drafters(
    spec: Spec, members: Members, sample: Sample, cells: tuple[str, ...], window: float
) -> Drafters:
    attached = _attachments(sample, cells)
    known = [each for each in members.drafters if attached.get(each.name, -1) >= 0]
    missing = sorted(each.name for each in members.drafters if attached.get(each.name, -1) < 0)
    if len(known) < LEAST_SHARE * len(members.drafters):
        words = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise UnusableError(Fault.MISSING, f"no cell's metrics show {words}")
    pools = {pool.name: (index, pool) for index, pool in enumerate(spec.drafters)}
    rows = [_row(sample, each, cells[attached[each.name]], pools[each.pool][1], window) for each in known]
    columns: Floats = np.array(rows).reshape(len(rows), 9).T
    longest = spec.verifier.max_draft_tokens or LONGEST_DRAFT
    return Drafters(
        names=tuple(each.name for each in known),
        pools=np.array([pools[each.pool][0] for each in known], np.int64),
        cells=np.array([attached[each.name] for each in known], np.int64),
        weights=np.array([pools[each.pool][1].weight for each in known], np.float64),
        acceptance=columns[0],
        sequences=columns[1],
        goodput=columns[2],
        caps=np.array([min(pools[each.pool][1].max_draft_tokens, longest) for each in known], np.int64),
        rates=columns[3],
        present=columns[4],
        drafts=Drafts(*columns[5:]),
    )


def _row(sample: Sample, drafter: Place, cell: str, pool: DrafterPool, window: float) -> tuple[float, ...]:
    """Acceptance, sequences, goodput, tokens per second and presence of a drafter; how its drafts come."""
    labels = {"cell": cell, "pool": pool.name, "drafter": drafter.name}

    def rate(name: str) -> float:
        value = sample.rate(f"{_DECODE}{name}_total", **labels)
        if value is None:
            raise UnusableError(
                Fault.MISSING, f"no rate of {_DECODE}{name}_total of {drafter.name} in {cell}"
            )
        return value

    estimate = sample.gauge("goodspeed_drafter_acceptance_ratio", **labels) or 0.0
    drafted, drafts, emitted = rate("draft_tokens"), rate("drafts"), rate("emitted_tokens")
    rounds = _rounds(sample, cell)
    acceptance = estimate
    if drafted * window >= LEAST_DRAFTED:
        acceptance = rate("expected_accepted_tokens") / drafted
    sequences = rate("sequence_rounds") / rounds if rounds > 0 else 0.0
    token_seconds = sample.gauge("goodspeed_drafter_token_seconds", **labels) or 0.0
    undrafted = max(rate("plain_tokens") - rate("late_tokens"), 0.0)
    if drafts > 0:
        goodput = sequences * emitted / drafts
        came = (
            drafts / (drafts + undrafted),
            rate("received_tokens") / drafts,
            rate("draft_seconds") / drafts,
        )
    else:
        goodput = 0.0
        trip = sample.gauge("goodspeed_drafter_round_trip_seconds", **labels) or 0.0
        came = (0.0 if undrafted > 0 else 1.0, 1.0, trip + token_seconds)
    present = min(rate("cycle_seconds") / max(sequences, 1.0), 1.0)
    return min(max(acceptance, 0.0), 1.0), sequences, goodput, emitted, present, *came, token_seconds


def _pool(pool: DrafterPool, members: Members, sample: Sample) -> Pool:
    def total(name: str) -> float:
        return sum(value for labels, value in sample.named(name) if labels.get("pool") == pool.name)

    replicas, ready = members.replicas.get(pool.name, pool.replicas), members.ready.get(pool.name, 0)
    scalable = pool.name in members.scalable
    shown = sum(labels.get("pool") == pool.name for labels, _ in sample.named("goodspeed_drafter_places"))
    if scalable and shown < ready:
        raise UnusableError(Fault.MISSING, f"{ready - shown} drafters of pool {pool.name} show no places")
    waiting = total("goodspeed_drafter_waiting_requests")
    return Pool(
        name=pool.name,
        replicas=replicas,
        ready=ready,
        fewest=pool.fewest if scalable else replicas,
        most=pool.most if scalable else replicas,
        load=total("goodspeed_drafter_sequences") + waiting,
        waiting=waiting,
        places=total("goodspeed_drafter_places") / shown if shown else PLACES,
        gpus=pool.resources.gpus,
        cost=_cost(pool),
    )


def _cost(pool: DrafterPool) -> float:
    cores = pool.resources.requests.get("cpu") or pool.resources.limits.get("cpu") or "1"
    return pool.resources.gpus + CORE_COST * max(float(amount(cores)), 0.01)
