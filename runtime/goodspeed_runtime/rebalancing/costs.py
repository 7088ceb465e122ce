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


def _extended(curve: CostCurve, tokens: Floats) -> Floats:
    """T_V, also below what was measured: as the first two points say, and no less than in proportion."""
    seconds = pass_seconds(curve, tokens)
    if len(curve.tokens) < 2:
        return seconds
    first, second = pass_seconds(curve, curve.tokens[:2])
    slope = (second - first) / max(curve.tokens[1] - curve.tokens[0], 1e-9)
    lower = first - slope * (curve.tokens[0] - tokens)
    lower = np.maximum(lower, first * tokens / max(curve.tokens[0], 1e-9))
    return np.where(tokens < curve.tokens[0], np.maximum(lower, 1e-9), seconds)


def _common(curves: Sequence[CostCurve]) -> CostCurve:
    """One curve through what was measured anywhere: means of passes of about the same size.

    Levels are made equal first, or a slow cell's passes would look as if their size made them slow.
    """
    widest = max(curves, key=lambda curve: float(curve.tokens[-1] - curve.tokens[0]))
    levels = [float(np.mean(curve.seconds / _extended(widest, curve.tokens))) for curve in curves]
    tokens = np.concatenate([curve.tokens for curve in curves])
    seconds = np.concatenate(
        [curve.seconds / level for curve, level in zip(curves, levels, strict=True)]
    ) * np.mean(levels)
    sizes, place = np.unique(np.rint(2 * np.log2(np.maximum(tokens, 1.0))), return_inverse=True)
    counts = np.bincount(place)
    return CostCurve(
        np.bincount(place, tokens, len(sizes)) / counts, np.bincount(place, seconds, len(sizes)) / counts
    )


class PassCosts:
    """The curves of all cells as one table, looked up for all of them at once."""

    def __init__(self, curves: Sequence[CostCurve], overheads: Floats) -> None:
        """Beyond what a cell has measured itself, its curve goes on in the shape that all of them have.

        Args:
            curves: one a cell.
            overheads: float64 `[c]`, seconds of a round beside its pass.
        """
        measured = np.array([len(curve.tokens) > 0 for curve in curves], np.bool_)
        common = _common([each for each in curves if len(each.tokens)]) if measured.any() else _EVEN
        shape = _extended(common, _GRID)
        table = np.tile(shape, (len(curves), 1))
        for row in np.flatnonzero(measured).tolist():
            ends = curves[row].tokens[[0, -1]]
            scale = pass_seconds(curves[row], ends) / _extended(common, ends)
            outside = shape * np.where(ends[0] > _GRID, scale[0], scale[1])
            inside = (ends[0] <= _GRID) & (ends[1] >= _GRID)
            table[row] = np.where(inside, pass_seconds(curves[row], _GRID), outside)
        usual = overheads[measured].mean() if measured.any() else 0.0
        self._table = table + np.where(measured, overheads, usual)[:, None]
        self._rows = np.arange(len(curves))

    def at(self, tokens: Floats) -> tuple[Floats, Floats]:
        """Seconds of a round of `tokens` (float64 `[c]`) in each cell, and of one token more in it."""
        place = np.clip(np.searchsorted(_GRID, tokens, side="right") - 1, 0, len(_GRID) - 2)
        low, high = self._table[self._rows, place], self._table[self._rows, place + 1]
        slope = (high - low) / (_GRID[place + 1] - _GRID[place])
        return low + slope * (tokens - _GRID[place]), slope
