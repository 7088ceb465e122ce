"""A fleet played event by event, as verifiers' loops run: the reference for what moves are expected to bring.

Admission, allocator, division of the budget and estimators are the verifier's own; drafters, links and the
target are times. What comes out is counted as the verifier's ledger counts it.
"""

from dataclasses import dataclass, field

import numpy as np

from goodspeed_runtime.rebalancing.observation import Cells, CostCurve, Drafters, Drafts, Observation
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, GoodputEstimator
from goodspeed_runtime.scheduling.gradient import GradientAllocator
from goodspeed_runtime.scheduling.grants import member_grants
from goodspeed_runtime.verifier.admission import Barrier, Continuous, View

JITTER = 0.1
PROMPT = 32
LATER = 0.25


@dataclass(frozen=True)
class World:
    """Drafters, one row each, and the target's pass.

    Attributes:
        acceptance, sequences, caps, weights: of drafters.
        token, delay: seconds of a drafted token, and from a verdict to the arrival of an empty draft.
        budget: C of every cell.
        base, slope: seconds of a pass, and of each token in it.
        host: seconds of a round beside its pass.
        barrier: rounds wait for every draft.
    """

    acceptance: np.ndarray
    sequences: np.ndarray
    caps: np.ndarray
    weights: np.ndarray
    token: np.ndarray
    delay: np.ndarray
    budget: int = 32
    base: float = 0.03
    slope: float = 0.0003
    host: float = 0.001
    barrier: bool = False


@dataclass
class Counts:
    """Sums over the time that was counted: of drafters `[n]`; and of passes by size, since the beginning."""

    columns: dict[str, np.ndarray]
    rounds: int = 0
    busy: float = 0.0
    price: float = 0.0
    passes: dict[int, list[float]] = field(default_factory=dict)


NAMES = (
    "drafts", "drafted", "sent", "expected", "emitted", "late", "plain", "draft_seconds", "under_way"
)  # fmt: skip


def counted(world, rows, seconds, generator, warm_up=10.0):
    """One cell with these drafters for so many seconds."""
    size = len(world.acceptance)
    counts = Counts({name: np.zeros(size) for name in NAMES})
    owner = np.repeat(rows, world.sequences[rows].astype(int))
    if not len(owner):
        return counts
    count = len(owner)
    alpha = world.acceptance[owner]
    admission = Barrier() if world.barrier else Continuous()
    allocator = GradientAllocator()
    acceptance, goodput = AcceptanceEstimator(), GoodputEstimator()
    for row in rows:
        acceptance.add(int(row))
        goodput.add(int(row))
    grant, granted = np.zeros(count, np.int64), np.zeros(count)
    arrives, due = np.zeros(count), np.zeros(count)
    expected, overtaken, agrees = np.ones(count), np.zeros(count, np.int64), np.ones(count, bool)
    prompts = PROMPT * count
    counts.passes[int(np.ceil(np.log2(prompts)))] = [1, prompts, world.base + world.slope * prompts]
    now, last_round, last_tokens = 0.0, 0.0, 1
    while now < seconds + warm_up:
        # Gather.
        while True:
            here = (grant > 0) & (arrives <= now)
            out = (grant > 0) & ~here
            left = np.where(agrees, np.maximum(grant - overtaken, 0), 0)
            since, until = now - granted[out], due[out] - now
            view = View(
                ready_tokens=float(expected[here].sum()),
                ready=int(here.sum()),
                alone=int((grant == 0).sum()),
                due=np.where(until > 0, until, LATER * since),
                since=since,
                expected=expected[out],
                acceptance=np.clip(acceptance.estimates(owner[out]), 0.01, 0.99),
                pass_seconds=world.base + world.host + world.slope * last_tokens,
                token_seconds=world.slope,
                since_round=now - last_round,
                chosen=None,
            )
            decision = admission.decide(view)
            if decision.wait <= 0:
                joining = np.flatnonzero(out)[decision.join]
                break
            coming = np.sort(arrives[out])
            enough = coming[min(decision.arrivals, len(coming)) - 1] if len(coming) else np.inf
            now = min(now + decision.wait, max(enough, now))
        # Pass.
        member = here | (grant == 0)
        tested = np.where(here, left, 0)
        tokens = int(tested[member].sum() + member.sum() + len(joining))
        taken = (world.base + world.slope * tokens) * generator.lognormal(0, 0.02)
        started, now = now, now + taken
        run = generator.geometric(1 - np.minimum(alpha, 1 - 1e-9)) - 1
        accepted = np.minimum(run, tested)
        emitted = np.zeros(count, np.int64)
        emitted[member] = accepted[member] + 1
        emitted[joining] = 1
        overtaken[joining] += 1
        agrees[joining] &= generator.random(len(joining)) < alpha[joining]
        last_tokens = tokens
        columns = {
            "drafts": here,
            "drafted": tested,
            "expected": tested * alpha,
            "emitted": emitted,
            "late": np.isin(np.arange(count), joining),
            "plain": np.isin(np.arange(count), joining) | (grant == 0),
            "draft_seconds": np.where(here, arrives - granted, 0),
            "sent": np.where(here, grant, 0),
            "under_way": np.ones(count),
        }
        # Learn and grant.
        fed = member.copy()
        fed[joining] = True
        goodput.update(owner[fed], emitted[fed].astype(float))
        judged = (tested > 0) | (grant == 0)
        if judged.any():
            acceptance.update(owner[judged], (tested * alpha)[judged], tested[judged])
        allocation = allocator.allocate(
            weights=world.weights[owner],
            acceptance=acceptance.estimates(owner),
            goodput=goodput.estimates(owner),
            caps=world.caps[owner],
            budget=world.budget,
        )
        new = member_grants(
            solved=allocation.grants,
            members=member,
            in_flight=np.where(member, 0, grant),
            budget=world.budget,
        )
        now += world.host
        if started >= warm_up:
            for name, column in columns.items():
                counts.columns[name] += np.bincount(owner, column, size)
            counts.rounds += 1
            counts.busy += taken + world.host
            counts.price += allocation.shadow_price
        entry = counts.passes.setdefault(int(np.ceil(np.log2(tokens))), [0, 0.0, 0.0])
        entry[0] += 1
        entry[1] += tokens
        entry[2] += taken
        last_round = now
        grant[member] = new
        granted[member] = now
        overtaken[member], agrees[member] = 0, True
        mean = world.delay[owner] + grant * world.token[owner]
        estimate = acceptance.estimates(owner)
        noise = generator.lognormal(0, JITTER, count)
        arrives[member] = (now + mean * noise)[member]
        due[member] = (now + mean)[member]
        expected[member] = ((1 - estimate ** (grant + 1)) / (1 - estimate))[member]
    return counts


def observed(world, cells, count, seconds, generator):
    """The fleet over so many seconds as the operator would see it; drafter i is in ``cells[i]``."""
    size = len(cells)
    played = [counted(world, np.flatnonzero(cells == index), seconds, generator) for index in range(count)]
    sums = {name: sum(each.columns[name] for each in played) for name in NAMES}
    rounds = np.array([max(each.rounds, 1) for each in played])
    busy = np.array([each.busy for each in played])
    curves = []
    for each in played:
        passes, tokens, taken = np.array([each.passes[key] for key in sorted(each.passes)]).reshape(-1, 3).T
        curves.append(CostCurve(tokens / passes, taken / passes) if len(passes) else CostCurve())
    drafts = np.maximum(sums["drafts"], 1)
    undrafted = sums["plain"] - sums["late"]
    drafted = sums["drafted"] > 20
    acceptance = np.where(drafted, sums["expected"] / np.maximum(sums["drafted"], 1), world.acceptance)
    sequences = sums["under_way"] / rounds[cells]
    came = sums["drafts"] > 0
    return Observation(
        seconds,
        Cells(
            tuple(f"cell-{index}" for index in range(count)),
            np.array([each.price for each in played]) / rounds,
            np.full(count, world.budget),
            np.full(count, world.budget),
            tuple(curves),
            np.zeros(count, bool),
            np.where(busy > 0, np.maximum(seconds - busy, 0) / rounds, 0.0),
            np.where(busy > 0, world.host, 0.0),
        ),
        Drafters(
            tuple(f"drafter-{index}" for index in range(size)),
            np.zeros(size, np.int64),
            np.asarray(cells),
            world.weights,
            acceptance,
            sequences,
            sequences * sums["emitted"] / drafts,
            world.caps,
            sums["emitted"] / seconds,
            np.minimum(sequences, 1),
            Drafts(
                np.where(came, sums["drafts"] / np.maximum(sums["drafts"] + undrafted, 1), 0.0),
                np.where(came, sums["sent"] / drafts, 1.0),
                np.where(came, sums["draft_seconds"] / drafts, world.delay + world.token),
                world.token,
            ),
        ),
        barrier=world.barrier,
    )


def drawn(generator, *, barrier=False):
    """Two to thirteen drafters, from much faster than the target's pass to much slower."""
    size = int(generator.integers(2, 14))
    scale = generator.choice([0.1, 0.3, 1.0, 3.0])
    return World(
        acceptance=generator.uniform(0.2, 0.95, size),
        sequences=generator.integers(1, 4, size).astype(float),
        caps=np.full(size, 8),
        weights=np.ones(size),
        token=scale * generator.uniform(0.002, 0.02, size),
        delay=scale * generator.uniform(0.005, 0.08, size),
        budget=int(generator.integers(6, 40)),
        base=generator.uniform(0.01, 0.05),
        slope=generator.choice([1e-4, 3e-4, 1e-3, 3e-3]),
        barrier=barrier,
    )
