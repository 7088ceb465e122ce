"""The slow loop in small: which drafters should change cell so that budget costs the same everywhere.

A decision from prices alone; carrying it out, and every caution of a real cluster, is the operator's.
"""

from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats, Integers


@dataclass(frozen=True, slots=True)
class Move:
    """One drafter's change of cell: `client` is a row, `origin` and `target` are cells."""

    client: int
    origin: int
    target: int


def moves_by_price(
    *, prices: Floats, cell_of: Integers, goodput: Floats, hysteresis: float = 0.1, share: float = 0.1
) -> list[Move]:
    """Pairs the dearest cell with the cheapest, the next with the next, and moves some from dear to cheap.

    Args:
        prices: float64 `[c]`, every cell's shadow price, averaged over many rounds.
        cell_of: int64 `[n]`, each drafter's cell; negative for none.
        goodput: float64 `[n]`; the drafters that have least in a dear cell move first.
        hysteresis: A pair whose prices differ by less than this share of the dearer one is left alone.
        share: The share of the dear cell's drafters that moves where the other cell is free; in proportion
            to the gap below that.

    Returns:
        The moves; a drafter moves at most once, and a cell is never emptied.
    """
    order = np.argsort(prices, kind="stable")
    found = []
    for cheap, dear in zip(order[: len(order) // 2], order[::-1], strict=False):
        gap = 1 - prices[cheap] / prices[dear] if prices[dear] > 0 else 0.0
        if gap <= hysteresis:
            break
        members = np.flatnonzero(cell_of == dear)
        count = min(int(np.ceil(share * gap * len(members))), len(members) - 1)
        poorest = members[np.argsort(goodput[members], kind="stable")][: max(count, 0)]
        found += [Move(int(row), int(dear), int(cheap)) for row in poorest]
    return found
