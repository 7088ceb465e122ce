"""How a simulated cell runs its rounds; the rounds themselves are in `simulator`."""

from dataclasses import dataclass

from goodspeed_runtime.scheduling.timing import VerificationCost
from goodspeed_runtime.scheduling.utility import AlphaFair


@dataclass(frozen=True, slots=True)
class Rules:
    """How a cell runs its rounds.

    Attributes:
        budget: C, draft tokens in flight.
        verification: T_V.
        utility: U, for the allocator's regret and the curves.
        barrier: Every round waits for every client, as in the paper; else it takes the drafts that have
            arrived.
        per_second: Goodput estimates are in tokens per second rather than per round.
        omniscient: The allocator is given the true α, and how it fades along a draft.
        warm_up_rounds: Rounds that the ledger's sums leave out.
        every: Rounds between two moments of the curves; 0 draws none.
        grants_timing: The allocator is given draft and link times.
        verifier_decodes: Who is granted nothing is decoded by the verifier at once, and whose draft is late
            gets a token of its own; else, as in the paper, an empty draft is waited for too. Without a
            barrier only.
        contention: By how many times its length a pass takes longer while everyone holds a grant; no
            allocator is told.
    """

    budget: int
    verification: VerificationCost
    utility: AlphaFair
    barrier: bool = True
    per_second: bool = False
    omniscient: bool = False
    warm_up_rounds: int = 0
    every: int = 0
    grants_timing: bool = False
    verifier_decodes: bool = False
    contention: float = 0.0
