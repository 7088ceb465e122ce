"""What the operator has decided beyond the spec, and what holds until it decides.

The fleet is a function of spec and assignments: which cells each pool drafts
for, how large a managed pool is, and, while the target changes, which targets
have cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from goodspeed_operator.api.cluster import Spec
from goodspeed_operator.api.target import Target
from goodspeed_operator.api.verifier import Verifier

DEFAULT_BUDGET = 32


def revision_of(target: Target) -> str:
    """Names a target model: six hexadecimal digits of a hash of its URI.

    Only the model counts. Drafters and verifiers must agree on it, so that its
    change needs new cells beside the old; all other changes roll pods in place.
    """
    return hashlib.blake2b(target.model.encode(), digest_size=3).hexdigest()


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of one target.

    Attributes:
        target: what they serve.
        verifier: how they serve it; its replicas are not looked at.
        replicas: how many there should be now.
    """

    target: Target
    verifier: Verifier
    replicas: int

    @property
    def revision(self) -> str:
        """Of the target."""
        return revision_of(self.target)


@dataclass(frozen=True, slots=True)
class Assignments:
    """Decisions that override the defaults; an empty one decides nothing.

    Attributes:
        pools: ordinals of the cells that each pool drafts for.
        replicas: sizes of managed pools, held within the pool's bounds.
        budget: C for ``budgetTokens: auto``, in tokens.
        cells: all targets with cells while a change of target is under way; empty means the spec's alone.
        attached: revision that drafters attach to; empty means the spec's.
    """

    pools: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)
    budget: int | None = None
    cells: tuple[Cells, ...] = ()
    attached: str = ""


def current_cells(spec: Spec) -> Cells:
    """The cells that the spec itself asks for."""
    return Cells(spec.target, spec.verifier, spec.verifier.replicas)


def spread(spec: Spec, cells: int) -> dict[str, tuple[int, ...]]:
    """Deals the fleet's drafters out over the cells, one after the other, pool by pool."""
    dealt: dict[str, tuple[int, ...]] = {}
    start = 0
    for pool in spec.drafters:
        drafters = max(1, pool.replicas)
        dealt[pool.name] = tuple(
            sorted({(start + i) % max(1, cells) for i in range(min(drafters, cells or 1))})
        )
        start += drafters
    return dealt


def cells_of_pools(
    spec: Spec, decided: Mapping[str, tuple[int, ...]], cells: int
) -> dict[str, tuple[int, ...]]:
    """Every pool's cells: as decided where those cells exist, else by `spread`."""
    result = spread(spec, cells)
    for name in result:
        kept = tuple(sorted({cell for cell in decided.get(name, ()) if 0 <= cell < max(1, cells)}))
        if kept:
            result[name] = kept
    return result
