"""What a drafter can be told."""

from __future__ import annotations

from dataclasses import dataclass

from goodspeed_runtime.protocol.rule import VerificationName


@dataclass(frozen=True, slots=True)
class DrafterSettings:
    """Settings of one drafter; the command line's help explains each.

    Attributes:
        name: unique name, a pod's.
        pool: it belongs to.
        cluster: label of every metric.
        model: URI of the draft model.
        target: URI of the target, whose tokenizer is spoken.
        verifiers: ``host:port`` of each cell it may begin with, or ``name=host:port``.
        cells: those it may be sent to besides, or go to when its own are gone.
        served_model_name: what requests call the model.
        weight: in the utility.
        max_draft_tokens: longest draft.
        support_size: most ids in a draft distribution.
        max_sequences: answers generated at once; more wait.
        max_waiting: answers that may wait before requests are refused.
        max_context_tokens: prompt and answer of one sequence, as the target's.
        request_seconds: longest time an answer may make no progress.
        draft_ahead: goes on drafting while verdicts are under way.
        verification: the rule that the verifier keeps answers lossless by.
        tenants: names that requests may ask for.
        tenant_keys: the file of each one's keys; all tenants have one, or none has.
    """

    name: str
    pool: str
    cluster: str
    model: str
    target: str
    verifiers: tuple[str, ...]
    served_model_name: str
    cells: tuple[str, ...] = ()
    weight: float = 1.0
    max_draft_tokens: int = 8
    support_size: int = 32
    max_sequences: int = 16
    max_waiting: int = 256
    max_context_tokens: int = 2048
    request_seconds: float = 120.0
    draft_ahead: bool = True
    verification: VerificationName = "rejection"
    tenants: tuple[str, ...] = ()
    tenant_keys: tuple[tuple[str, str], ...] = ()
