"""What a simulation adds up while it runs, and the figures that come of it."""

from dataclasses import dataclass, field

import numpy as np

from goodspeed_runtime.scheduling.arrays import Floats
from goodspeed_runtime.scheduling.goodput import equivalent_goodput, jain_index
from goodspeed_runtime.scheduling.utility import AlphaFair


@dataclass(frozen=True, slots=True)
class Moment:
    """One point of a simulation's curves.

    Attributes:
        seconds: Simulated time.
        rounds: Rounds until then.
        utility: Σ w·U of the goodput per round, averaged since the start, of the clients present.
        utility_per_second: The same of the goodput per second.
        estimated: Mean over clients of mu(α̂, S), what this round's grants were expected to yield.
        actual: Mean over clients of the tokens a round since the last moment.
        regret: Share of equation 5's best value, under the true α, that this round's grants miss.
        error: Root mean square of α̂ − α.
    """

    seconds: float
    rounds: int
    utility: float
    utility_per_second: float
    estimated: float
    actual: float
    regret: float
    error: float


@dataclass(slots=True)
class Ledger:
    """Sums since the end of warm-up, one row a client.

    Attributes:
        tokens: float64 `[n]`, committed.
        rounds: float64 `[n]`, rounds that ended while the client was present.
        seconds: float64 `[n]`, time for which the client was present.
        round_seconds: How long each round was.
        waiting: Seconds in which the verifier waited for drafts.
        verifying: Seconds in which it verified.
        moments: The curves.
    """

    tokens: Floats
    rounds: Floats
    seconds: Floats
    round_seconds: list[float] = field(default_factory=list)
    waiting: float = 0.0
    verifying: float = 0.0
    moments: list[Moment] = field(default_factory=list)

    @classmethod
    def empty(cls, size: int) -> "Ledger":
        """A ledger for `size` clients."""
        return cls(np.zeros(size), np.zeros(size), np.zeros(size))

    def goodput_per_round(self) -> Floats:
        """float64 `[n]`, tokens a round while present; NaN for a client that never was."""
        return np.asarray(self.tokens / np.where(self.rounds > 0, self.rounds, np.nan))

    def goodput_per_second(self) -> Floats:
        """float64 `[n]`, tokens a second while present; NaN for a client that never was."""
        return np.asarray(self.tokens / np.where(self.seconds > 0, self.seconds, np.nan))

    def figures(self, *, weights: Floats, utility: AlphaFair, per_second: bool) -> "Figures":
        """The summary, with utility, Jain index and minimum of goodput per round or per second."""
        chosen = self.goodput_per_second() if per_second else self.goodput_per_round()
        seen = ~np.isnan(chosen)
        goodput, weights = chosen[seen], weights[seen]
        longest = float(np.max(self.seconds, initial=0.0))
        return Figures(
            utility=float((weights * utility.value(goodput)).sum()),
            equivalent=equivalent_goodput(goodput, weights, utility),
            jain_index=jain_index(goodput / weights),
            min_goodput=float(goodput.min()),
            p95_round_seconds=float(np.quantile(self.round_seconds, 0.95)),
            goodput_per_round=float(self.tokens.sum()) / max(len(self.round_seconds), 1),
            goodput_per_second=float(self.tokens.sum()) / longest if longest else 0.0,
            waiting_share=self.waiting / max(self.waiting + self.verifying, 1e-300),
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """A simulation in eight numbers.

    Attributes:
        utility: Σ w·U(goodput).
        equivalent: The goodput which, had by everyone, would be worth that utility.
        jain_index: Of goodput over weight.
        min_goodput: The worst client's.
        p95_round_seconds: 95th percentile of the rounds' lengths.
        goodput_per_round: Tokens of all clients a round.
        goodput_per_second: Tokens of all clients a second.
        waiting_share: Share of the time that the verifier waited for drafts.
    """

    utility: float
    equivalent: float
    jain_index: float
    min_goodput: float
    p95_round_seconds: float
    goodput_per_round: float
    goodput_per_second: float
    waiting_share: float
