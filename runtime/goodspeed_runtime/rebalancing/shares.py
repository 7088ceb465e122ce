"""What every drafter should get of its cell's budget in the long run, for many cells at once.

The model behind predicted gains: in each cell the gradient scheduler tends to the optimum x* over the convex
hull of goodput (PAPER, Theorems 1 to 4), where every sequence stops at w·U'(x)·α^j = λ. A drafter with k
sequences in a round counts as one client whose goodput is theirs together; one that is there in a share of
the rounds counts for that share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats, Integers
from goodspeed_runtime.scheduling.utility import AlphaFair

LEAST_FAIRNESS = 0.1
"""At α = 0 the optimum is not unique; this is the smallest α that the model tells apart."""
LARGEST_ACCEPTANCE = 0.995
_STEPS = 50


@dataclass(frozen=True, slots=True)
class Shares:
    """The optimum of every cell.

    Attributes:
        prices: float64 `[c]`, λ; 0 where the budget does not bind.
        slopes: float64 `[c]`, by how much λ falls for one more token of budget.
        tokens: float64 `[n]`, draft tokens in a round of each drafter, over its sequences.
        goodput: float64 `[n]`, tokens in a round in which the drafter takes part.
        utility: float64 `[n]`, w·U(x), weighted by how often it takes part.
    """

    prices: Floats
    slopes: Floats
    tokens: Floats
    goodput: Floats
    utility: Floats


class Demand:
    """What the drafters of a fleet could use, whatever cell they are in."""

    def __init__(
        self, *, weights: Floats, acceptance: Floats, sequences: Floats, caps: Integers, fairness: float
    ) -> None:
        """Prepares the drafters' curves; arguments as in `observation.Drafters`."""
        self._fairness = max(fairness, LEAST_FAIRNESS)
        self._utility = AlphaFair(fairness)
        self._weights, self.sequences = weights, sequences
        together = np.maximum(sequences, 1.0)
        longest = int(caps.max(initial=0))
        alpha = np.clip(acceptance, 0.0, LARGEST_ACCEPTANCE)
        steps = alpha[:, None] ** np.arange(1, longest + 1)
        steps[np.arange(longest) >= caps[:, None]] = 0.0
        steps[steps < 1e-12] = 0.0
        usable = steps > 0
        before = 1 + np.cumsum(steps, axis=1) - steps
        safe = np.where(usable, steps, 1.0)
        scale = (weights[:, None] * safe) ** (1 / self._fairness)
        # A piece is filled to A·m - B, where m = λ^(-1/α).
        self._rise = np.where(usable, scale / (together[:, None] * safe), 0.0)
        self._start = np.where(usable, before / safe, 1.0)
        self._full = float(((self._start + 1) / np.where(usable, self._rise, np.inf)).max(initial=1.0))
        first = self._start / np.where(usable, self._rise, 1.0)
        self._empty = float(np.where(usable, first, np.inf).min(initial=1.0))
        self._steps, self._together = steps, together

    def _filled(self, level: Floats, cells: Integers) -> Floats:
        return np.clip(self._rise * level[cells][:, None] - self._start, 0.0, 1.0)

    def _used(self, level: Floats, cells: Integers) -> Floats:
        tokens = self._filled(level, cells).sum(axis=1) * self.sequences
        return np.asarray(np.bincount(cells, tokens, minlength=len(level)), np.float64)

    def solve(self, cells: Integers, budgets: Integers | Floats) -> Shares:
        """The optimum when drafter i is in `cells[i]` (int64 `[n]`, not negative)."""
        low = np.full(len(budgets), np.log(self._empty) - 1)
        high = np.full(len(budgets), np.log(self._full) + 1)
        spare = self._used(np.exp(high), cells) <= budgets
        for _ in range(_STEPS):
            middle = (low + high) / 2
            over = self._used(np.exp(middle), cells) > budgets
            low, high = np.where(over, low, middle), np.where(over, middle, high)
        level = np.exp(np.where(spare, np.log(self._full) + 1, low))
        filled = self._filled(level, cells)
        elastic = (self._rise * ((filled > 0) & (filled < 1))).sum(axis=1) * self.sequences
        elasticity = np.bincount(cells, elastic, minlength=len(level))
        prices = np.where(spare, 0.0, level**-self._fairness)
        rigid = spare | (elasticity <= 0)
        slopes = np.where(rigid, 0.0, self._fairness * prices / np.where(rigid, 1.0, level * elasticity))
        goodput = self._together * (1 + (filled * self._steps).sum(axis=1))
        present = np.minimum(self.sequences, 1.0)
        return Shares(
            prices=prices,
            slopes=slopes,
            tokens=filled.sum(axis=1) * self.sequences,
            goodput=goodput,
            utility=present * self._weights * self._utility.value(goodput),
        )
