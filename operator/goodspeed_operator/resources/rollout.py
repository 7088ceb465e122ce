"""Plans how a cluster moves from one target model to another.

Drafters and verifiers must agree on the target (tokenizer, embedding), so the
cells of each target are a StatefulSet of their own, named by the target's
revision, and for a while both stand side by side. The plan is a pure function
of what is observed, with no memory: killed at any step, or turned back
half-way, the next call goes on from what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Step(StrEnum):
    """Where a change of target stands; shown in status."""

    STEADY = "Steady"
    GROW = "GrowNewCells"
    MAKE_ROOM = "MakeRoom"
    MOVE_DRAFTERS = "MoveDrafters"
    RETIRE = "RetireOldCells"


@dataclass(frozen=True, slots=True)
class VerifierSet:
    """The cells of one target as observed.

    Attributes:
        revision: of the target they serve.
        replicas: asked for.
        ready: cells that serve.
        unschedulable: a cell waits because no node has room, such as for its GPU.
    """

    revision: str
    replicas: int
    ready: int
    unschedulable: bool = False


@dataclass(frozen=True, slots=True)
class PoolRollout:
    """Which target's cells a pool is attached to, and whether all its pods are."""

    name: str
    revision: str
    complete: bool


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What should be there now.

    Attributes:
        replicas: cells per revision; a revision that is not named is deleted.
        drafters: the revision that all pools attach to.
        step: what this plan does next.
    """

    replicas: dict[str, int]
    drafters: str
    step: Step


def plan_rollout(
    revision: str, cells: int, sets: Sequence[VerifierSet], pools: Sequence[PoolRollout]
) -> RolloutPlan:
    """The next step towards ``cells`` cells of ``revision`` and none of any other.

    New cells come before old ones go, one at a time. Where no node has room
    for a new cell, one old cell makes room, and only one until its successor
    serves. Drafters move once the new cells can carry them: all of them, or
    half where room had to be made. Old cells go when no drafter needs them.

    Args:
        revision: the target wanted.
        cells: how many cells are wanted, at least 0.
        sets: what is observed, at most one entry a revision.
        pools: the pools observed; none yet on a new cluster.
    """
    wanted = next((found for found in sets if found.revision == revision), VerifierSet(revision, 0, 0))
    others = [found for found in sets if found.revision != revision]
    if not others or cells == 0:
        return RolloutPlan({revision: cells}, revision, Step.STEADY)

    old_cells = sum(found.replicas for found in others)
    moved = all(pool.revision == revision and pool.complete for pool in pools)
    if moved and (pools or wanted.ready >= cells):
        return RolloutPlan({revision: cells}, revision, Step.RETIRE)

    made_room = old_cells < cells
    enough = (cells + 1) // 2 if made_room else cells
    kept = {found.revision: found.replicas for found in others}
    if wanted.ready >= enough:
        return RolloutPlan({revision: max(wanted.replicas, enough), **kept}, revision, Step.MOVE_DRAFTERS)

    attached = _attached(revision, others, pools)
    growing = {revision: min(cells, wanted.ready + 1)}
    if wanted.unschedulable and old_cells and old_cells + wanted.ready >= cells:
        shrinkable = [found for found in others if found.replicas > 0]
        victim = max(shrinkable, key=lambda found: (found.revision != attached, found.revision))
        kept[victim.revision] = victim.replicas - 1
        return RolloutPlan({**growing, **kept}, attached, Step.MAKE_ROOM)
    return RolloutPlan({**growing, **kept}, attached, Step.GROW)


def _attached(revision: str, others: Sequence[VerifierSet], pools: Sequence[PoolRollout]) -> str:
    """The revision that keeps the drafters: where most are, as long as it has cells; else the wanted one."""
    alive = {found.revision for found in others if found.replicas > 0} | {revision}
    votes = [pool.revision for pool in pools if pool.revision in alive]
    return max(set(votes), key=lambda name: (votes.count(name), name)) if votes else revision
