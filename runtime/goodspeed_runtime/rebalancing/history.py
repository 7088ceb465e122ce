"""What one decision must remember of those before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from goodspeed_runtime.rebalancing.decision import Action, Decision
from goodspeed_runtime.scheduling.arrays import Flags

PRICE_STEP = 0.3


def _none() -> Mapping[str, float]:
    return {}


@dataclass(frozen=True, slots=True)
class History:
    """When things last changed, and how measured prices compare with the model's.

    Attributes:
        changed: Unix seconds of the last change, by drafter, pool and cell, prefixed by which it is.
        corrections: measured over modelled price, smoothed, by cell.
    """

    changed: Mapping[str, float] = field(default_factory=_none)
    corrections: Mapping[str, float] = field(default_factory=_none)

    def cooling(self, kind: str, names: Iterable[str], now: float, cooldown: float) -> Flags:
        """Which of these were changed less than `cooldown` seconds ago; one in the future counts as now."""
        if not self.changed:
            return np.zeros(len(list(names)), bool)
        return np.array(
            [now - self.changed.get(f"{kind}/{name}", -np.inf) < cooldown for name in names], bool
        )

    def after(self, decisions: Iterable[Decision], now: float, cooldown: float) -> History:
        """The history once these have been carried out; what has cooled down is forgotten."""
        changed = {what: when for what, when in self.changed.items() if now - when < cooldown}
        for each in decisions:
            if each.action is Action.MOVE:
                for what in (f"drafter/{each.subject}", f"cell/{each.source}", f"cell/{each.destination}"):
                    changed[what] = now
            elif each.action is Action.SCALE:
                changed[f"pool/{each.subject}"] = now
            elif each.action is Action.BUDGET:
                changed[f"cell/{each.subject}"] = now
        return History(changed, self.corrections)

    def corrected(self, ratios: Mapping[str, float]) -> History:
        """The history after another look at the prices."""
        found = {
            name: self.corrections[name] * (ratio / self.corrections[name]) ** PRICE_STEP
            if name in self.corrections
            else ratio
            for name, ratio in ratios.items()
        }
        return History(self.changed, {**self.corrections, **found})
