"""How a request wants its tokens drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of one sequence.

    Attributes:
        temperature: 0 is greedy.
        top_k: 0 is off.
        top_p: 1 is off.
        seed: 0 to 2**64 - 1.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError naming the parameter that has no meaning."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}: use 0 for greedy or a positive number")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}: use 0 for off or a positive number")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: use a number above 0, at most 1")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed is {self.seed}: use 0 to 2**64 - 1")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0
