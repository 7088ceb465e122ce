"""What a pass of the target costs, T_V(tokens), from what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from goodspeed_runtime.rebalancing.observation import CostCurve
from goodspeed_runtime.scheduling.arrays import Floats

_GRID = np.concatenate([[0.0], 2.0 ** np.arange(0, 16.01, 0.5)])
_EVEN = CostCurve(np.array([1.0]), np.array([1.0]))
"""Where nothing was measured anywhere all passes take the same time: gains are then of tokens a round."""


def pass_seconds(curve: CostCurve, tokens: Floats) -> Floats:
    """T_V at `tokens`, float64 of any shape.

    Straight between measured points, never falling, and beyond them as the last two points say, though not
    steeper than in proportion: two points that lie close together say little of what is far away.
    """
    seconds = np.maximum.accumulate(curve.seconds)
    inside = np.interp(tokens, curve.tokens, seconds)
    if len(curve.tokens) < 2:
        return inside
    slope = (seconds[-1] - seconds[-2]) / max(curve.tokens[-1] - curve.tokens[-2], 1e-9)
    slope = min(slope, seconds[-1] / max(curve.tokens[-1], 1e-9))
    return np.asarray(inside + slope * np.maximum(tokens - curve.tokens[-1], 0.0))


class PassCosts:
    """The curves of all cells as one table, looked up for all of them at once."""

    def __init__(self, curves: Sequence[CostCurve], overheads: Floats) -> None:
        """A cell without a curve is taken to be like the others.

        Args:
            curves: one a cell.
            overheads: float64 `[c]`, seconds of a round beside its pass.
        """
        measured = np.array([len(curve.tokens) > 0 for curve in curves], np.bool_)
        known = [pass_seconds(curve, _GRID) for curve in curves if len(curve.tokens)]
        common = np.mean(known, axis=0) if known else pass_seconds(_EVEN, _GRID)
        usual = overheads[measured].mean() if known else 0.0
        table = np.array([pass_seconds(each, _GRID) if len(each.tokens) else common for each in curves])
        self._table = table.reshape(len(curves), len(_GRID)) + np.where(measured, overheads, usual)[:, None]
        self._rows = np.arange(len(curves))

    def at(self, tokens: Floats) -> tuple[Floats, Floats]:
        """Seconds of a round of `tokens` (float64 `[c]`) in each cell, and of one token more in it."""
        place = np.clip(np.searchsorted(_GRID, tokens, side="right") - 1, 0, len(_GRID) - 2)
        low, high = self._table[self._rows, place], self._table[self._rows, place + 1]
        slope = (high - low) / (_GRID[place + 1] - _GRID[place])
        return low + slope * (tokens - _GRID[place]), slope
