"""What a verifier can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from goodspeed_runtime.protocol.rule import VerificationName

AllocatorName = Literal["gradient", "fixed", "random"]
ObjectiveName = Literal["perRound", "perSecond"]
PrefixSharing = Literal["off", "tenant", "cell"]


@dataclass(frozen=True, slots=True)
class VerifierSettings:
    """Settings of one verifier; the command line's help explains each.

    Attributes:
        name: unique name, a pod's.
        cluster: label of every metric.
        target_model: URI, for people.
        budget_tokens: C, draft tokens in flight, at the start.
        most_budget_tokens: the largest that C may become; 0 is as at the start.
        max_context_tokens: prompt and answer of one sequence.
        max_sequences: KV slots.
        max_waiting: sequences that may wait for a slot before more are refused.
        prefill_chunk_tokens: most prompt tokens in one round.
        prefill_share: of a round's time without prompts, by which they may lengthen it.
        prefix_sharing: among whose sequences keys and values of equal beginnings are shared.
        batch_invariant: logits have the same bits whatever shares a pass.
        turn_seconds: a sequence keeps its slot at least so long before another account's may take it.
        max_draft_tokens: cap on every grant.
        barrier: rounds wait for every draft, as the paper's do.
        allocator: divides the budget.
        objective: what gradient divides it for: goodput per round or per second.
        utility_alpha: of the α-fair utility.
        acceptance_step: η of the acceptance estimate.
        goodput_step: β of the goodput estimate.
        verification: the rule that keeps answers lossless.
        tenants: name and weight of each that a request may name.
    """

    name: str
    cluster: str = "default"
    target_model: str = ""
    budget_tokens: int = 32
    most_budget_tokens: int = 0
    max_context_tokens: int = 2048
    max_sequences: int = 32
    max_waiting: int = 256
    prefill_chunk_tokens: int = 256
    prefill_share: float = 0.5
    prefix_sharing: PrefixSharing = "tenant"
    batch_invariant: bool = False
    turn_seconds: float = 5.0
    max_draft_tokens: int = 16
    barrier: bool = False
    allocator: AllocatorName = "gradient"
    objective: ObjectiveName = "perRound"
    utility_alpha: float = 1.0
    acceptance_step: float = 0.1
    goodput_step: float = 0.1
    verification: VerificationName = "rejection"
    tenants: tuple[tuple[str, float], ...] = ()

    @property
    def most_budget(self) -> int:
        """The largest C that there is room for."""
        return max(self.budget_tokens, self.most_budget_tokens)
