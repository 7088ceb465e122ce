"""Weighted α-fair utility: the one knob between total throughput and equal shares; it allocates nothing."""

from dataclasses import dataclass

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats


@dataclass(frozen=True, slots=True)
class AlphaFair:
    """U(x) = x^(1−α)/(1−α), and log x at α = 1 (Mo and Walrand 2000; PAPER §III uses the logarithm).

    α = 0 is the sum of goodput, 1 proportional fairness, 2 minimal delay, and a large α tends to max-min.

    Attributes:
        alpha: The degree of fairness, not negative.
        smallest: Goodput in tokens below which x is taken to be this, so that U' stays finite for an idle
            client.
    """

    alpha: float = 1.0
    smallest: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < np.inf:
            raise ValueError(f"alpha is {self.alpha}; it must be finite and not negative")
        if not 0 < self.smallest < np.inf:
            raise ValueError(f"smallest is {self.smallest}; it must be finite and positive")

    def value(self, goodput: Floats) -> Floats:
        """U(x) elementwise for goodput in tokens, any shape."""
        x = np.maximum(goodput, self.smallest)
        if self.alpha == 1:
            return np.asarray(np.log(x))
        return np.asarray(x ** (1 - self.alpha) / (1 - self.alpha))

    def log_gradient(self, goodput: Floats) -> Floats:
        """Log U'(x) = −α·log x elementwise: in logarithms no α is large enough to overflow."""
        if self.alpha == 0:
            return np.zeros_like(goodput)
        return np.asarray(-self.alpha * np.log(np.maximum(goodput, self.smallest)))

    def gradient(self, goodput: Floats) -> Floats:
        """U'(x) = x^−α elementwise, the weight of a client in the paper's equation 5."""
        return np.asarray(np.exp(self.log_gradient(goodput)))
