"""The clients that the simulator plays: what each is like, and how that changes. No scheduler sees this."""

from dataclasses import dataclass, field

import numpy as np

from goodspeed_runtime.scheduling.arrays import Flags, Floats, Integers

_SUREST = 0.995


@dataclass(slots=True)
class Clients:
    """One row a client, each with one sequence under way whenever it is present.

    Attributes:
        weights: float64 `[n]`, w in w·U(x).
        acceptance: float64 `[n]`, the true α of what the client drafts now.
        draft_seconds: float64 `[n]`, for each drafted token.
        delay_seconds: float64 `[n]`, from a verdict to the arrival of an empty draft.
        caps: int64 `[n]`, the longest draft.
        floors: int64 `[n]`, tokens granted before anything is optimised.
        fade: float64 `[n]`, what each position of a draft has of the acceptance of the one before: position
            j, from 0, is accepted with α·fade^j; 1 is the paper's geometric model.
        present: bool `[n]`.
    """

    weights: Floats
    acceptance: Floats
    draft_seconds: Floats
    delay_seconds: Floats
    caps: Integers
    floors: Integers
    fade: Floats
    present: Flags

    def __post_init__(self) -> None:
        size = len(self.weights)
        for name in ("acceptance", "draft_seconds", "delay_seconds", "caps", "floors", "fade", "present"):
            if len(getattr(self, name)) != size:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, but weights has {size}")
        if not ((self.acceptance > 0) & (self.acceptance < 1)).all():
            raise ValueError("the true acceptance must lie in (0, 1)")
        if not (self.fade > 0).all():
            raise ValueError("fade must be above 0")

    def __len__(self) -> int:
        return len(self.weights)

    def by_position(self, rows: Integers, longest: int) -> Floats:
        """Float64 `[m, longest]`, how each position of the rows' drafts is accepted; never quite surely."""
        raised = self.acceptance[rows, None] * self.fade[rows, None] ** np.arange(longest)
        return np.asarray(np.minimum(raised, np.maximum(self.acceptance[rows, None], _SUREST)))


@dataclass(frozen=True, slots=True)
class Changes:
    """What happens to clients, in order of time.

    Attributes:
        at: float64 `[m]`, rising, seconds.
        client: int64 `[m]`.
        acceptance: float64 `[m]`, the client's α from then on; NaN when it leaves. An absent client with an
            α joins.
    """

    at: Floats = field(default_factory=lambda: np.zeros(0))
    client: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    acceptance: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.at) == len(self.client) == len(self.acceptance):
            raise ValueError("changes need as many times as clients and acceptances")
        if (np.diff(self.at) < 0).any():
            raise ValueError("changes must be in order of time")
