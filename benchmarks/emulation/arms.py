"""Ways of running rounds, networks to run them over, and a synthetic fleet that does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from emulation.cell import Cell
from emulation.fleet import Member, Result, run
from emulation.network import Way
from emulation.synthetic import VOCABULARY, Cost, Device, SyntheticEngine, SyntheticTarget, truth
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.verifier.settings import VerifierSettings

DRAFTERS, USERS = 8, 2
COST = Cost(base=0.03, token=0.0002)
SPREAD = [0.002 * 10 ** (place / (DRAFTERS - 1)) for place in range(DRAFTERS)]
"""Seconds a drafted token, ten times from the quickest drafter to the slowest."""
BUDGET = 8 * DRAFTERS * USERS
WARM_UP_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Arm:
    """How rounds are run.

    Attributes:
        name: for tables.
        barrier: every draft is waited for.
        ahead: drafters draft while a verdict is under way.
        drafts: whether anybody drafts.
    """

    name: str
    barrier: bool
    ahead: bool
    drafts: bool = True


ARMS = (
    Arm("barrier", barrier=True, ahead=False),
    Arm("barrier, ahead", barrier=True, ahead=True),
    Arm("continuous", barrier=False, ahead=False),
    Arm("continuous, ahead", barrier=False, ahead=True),
)
CONTINUOUS = ARMS[-1]
PLAIN = Arm("plain decoding", barrier=False, ahead=False, drafts=False)
NETWORKS = {
    "1 ms": [Way(trip=0.001)] * DRAFTERS,
    "20 ms": [Way(trip=0.02)] * DRAFTERS,
    "80 ms": [Way(trip=0.08)] * DRAFTERS,
    "80 ms, lossy": [Way(trip=0.08, jitter=0.005, bandwidth=1.25e6, loss=0.01)] * DRAFTERS,
    "1 to 100 ms": [Way(trip=0.001 * 100 ** (place / (DRAFTERS - 1))) for place in range(DRAFTERS)],
}


async def synthetic(
    arm: Arm,
    ways: Sequence[Way],
    *,
    seconds: float,
    speeds: Sequence[float] = SPREAD,
    temperature: float = 0.0,
    support: int = 0,
    verification: str = "rejection",
    mute: Collection[str] = (),
    namespaces: bool = False,
    cost: Cost = COST,
    users: int = USERS,
    acceptance: float | None = None,
    objective: str = "perRound",
    device: Device | None = None,
) -> Result:
    """The fleet of drafters of these speeds on these ways; those in ``mute`` draft nothing.

    With ``acceptance`` every guess stands with that chance, in place of three easy ones in four.
    With ``device`` the target and all drafters compute on that one.

    Raises:
        AssertionError: an answer is not the target's own.
    """
    settings = VerifierSettings(
        name="cell",
        barrier=arm.barrier,
        budget_tokens=BUDGET if arm.drafts else 0,
        max_sequences=2 * DRAFTERS * USERS,
        objective=objective,  # type: ignore[arg-type]
        max_context_tokens=1 << 16,
        verification=verification,  # type: ignore[arg-type]
    )
    chances = {} if acceptance is None else {"easy": acceptance, "hard": acceptance}
    engine = partial(SyntheticEngine, support=support, device=device, **chances)
    members = [
        Member(
            f"drafter-{number}",
            partial(engine, number, speed),
            way,
            [[users * number + user, 0] for user in range(users)],
            {"max_draft_tokens": 0} if f"drafter-{number}" in mute else {},
        )
        for number, (speed, way) in enumerate(zip(speeds, ways, strict=True))
    ]
    result = await run(
        Cell(SyntheticTarget(settings.max_sequences, cost, device), settings),
        members,
        seconds=seconds,
        warm_up=WARM_UP_SECONDS,
        tokens=1 << 15,
        vocabulary=("synthetic", VOCABULARY),
        sampling=Sampling(temperature),
        namespaces=namespaces,
        draft_ahead=arm.ahead,
        verification=verification,
    )
    for (name, user), answer in result.answers.items():
        sequence = users * int(name.rpartition("-")[2]) + user
        expected = [truth(sequence, 2 + place) for place in range(len(answer))]
        assert answer == expected, f"{arm.name}: {name} gave its user another text than the target's"
    return result
