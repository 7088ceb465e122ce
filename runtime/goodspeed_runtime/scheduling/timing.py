"""How long a round takes, as a function of what is in it; who measures it is the caller's business.

The paper optimises goodput per round and so cannot see a slow drafter or a long link; this is what it would
need.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats

Curve = Callable[[Floats], tuple[Floats, Floats]]


@dataclass(frozen=True, slots=True)
class VerificationCost:
    """T_V(tokens) through measured points, straight between them and beyond the last.

    Attributes:
        tokens: Rising, tokens in one forward pass (drafted ones and one more a sequence), two or more.
        seconds: As many, what the pass took, not falling.
    """

    tokens: tuple[float, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.seconds) or len(self.tokens) < 2:
            raise ValueError("a verification cost needs at least two points, as many tokens as seconds")
        if not all(a < b for a, b in pairwise(self.tokens)) or not all(
            a <= b for a, b in pairwise(self.seconds)
        ):
            raise ValueError("a verification cost needs rising tokens, and seconds that do not fall")
        if not self.seconds[0] > 0:
            raise ValueError("a verification cost needs positive seconds")

    @classmethod
    def linear(cls, base: float, per_token: float) -> "VerificationCost":
        """`base` seconds for the pass and `per_token` seconds for each token in it."""
        return cls((0.0, 1.0), (base, base + per_token))

    def _piece(self, tokens: float) -> int:
        return min(max(bisect_right(self.tokens, tokens) - 1, 0), len(self.tokens) - 2)

    def slope(self, tokens: float) -> float:
        """Seconds that one more token adds to a pass of `tokens`."""
        piece = self._piece(tokens)
        rise = self.seconds[piece + 1] - self.seconds[piece]
        return rise / (self.tokens[piece + 1] - self.tokens[piece])

    def at(self, tokens: float) -> float:
        """Seconds of a pass of `tokens`."""
        piece = self._piece(tokens)
        rise = self.seconds[piece + 1] - self.seconds[piece]
        steep = rise / (self.tokens[piece + 1] - self.tokens[piece])
        return max(self.seconds[piece] + (tokens - self.tokens[piece]) * steep, self.seconds[0])

    def curve(self) -> Curve:
        """`at` and `slope` of many tokens at once, float64 of their shape each."""
        places, seconds = np.array(self.tokens), np.array(self.seconds)
        steep = np.diff(seconds) / np.diff(places)
        corners = places[1:-1]

        def cost(tokens: Floats) -> tuple[Floats, Floats]:
            piece = np.searchsorted(corners, tokens, side="right")
            slope = steep[piece]
            return np.maximum(seconds[piece] + (tokens - places[piece]) * slope, seconds[0]), slope

        return cost


@dataclass(frozen=True, slots=True)
class Timing:
    """What a sequence's draft costs in seconds, one row a sequence.

    Attributes:
        draft_seconds: float64 `[n]`, for each drafted token.
        delay_seconds: float64 `[n]`, from a verdict's sending to the next draft's arrival, were it empty:
            the round trip, and what the drafter needs before its first token.
        verification: T_V.
    """

    draft_seconds: Floats
    delay_seconds: Floats
    verification: VerificationCost
