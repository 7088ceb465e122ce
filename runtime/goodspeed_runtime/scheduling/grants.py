"""What a round may hand out while other drafts are under way; how much each deserves is solved elsewhere."""

import numpy as np
from numpy.typing import NDArray

from goodspeed_runtime.scheduling.arrays import Integers


def member_grants(
    *, solved: Integers, members: NDArray[np.bool_], in_flight: Integers, budget: int
) -> Integers:
    """The grants of this round's members, such that all drafts in flight together never exceed the budget.

    In a continuous loop only the members, whose drafts were just verified, get a new grant. The others
    still hold the grant of an earlier solution, which may be larger than this one gives them; until they
    come back, the members share what is left, in proportion to their solved grants, and wait for the rest.

    Args:
        solved: int64 `[n]`, this round's grant of every active sequence.
        members: bool `[n]`, which sequences take part in this round.
        in_flight: int64 `[n]`, draft tokens granted earlier and not yet verified; those of members are spent.
        budget: C, the draft tokens that may be in flight at once.

    Returns:
        int64 `[m]` for the m members, in row order; none above its solved grant.
    """
    wanted = solved[members]
    room = max(budget - int(in_flight[~members].sum()), 0)
    total = int(wanted.sum())
    if total <= room:
        return wanted
    # Integer shares by largest remainder; a stable sort gives ties to the lower row.
    shares, rests = np.divmod(wanted * room, total)
    first = np.argsort(-rests, kind="stable")[: room - int(shares.sum())]
    shares[first] += 1
    return np.asarray(shares)
