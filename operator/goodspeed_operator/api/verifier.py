"""The verifiers: cells of the fleet, each with the target model and a token budget."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

from goodspeed_operator.api.part import Checked, Rule
from goodspeed_operator.api.pods import Pods
from goodspeed_operator.api.scalars import DurationText, between

LARGEST_BUDGET = 65_536
DEFAULT_PREFIX_SHARING: Literal["tenant"] = "tenant"
"""As the server's, which is not told of it."""
_BUDGET = "budgetTokens must be auto or a number from 1 to 65536"


def _digits(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Budget = Annotated[
    str,
    WithJsonSchema({"x-kubernetes-int-or-string": True}),
    StringConstraints(max_length=8),
    Checked(
        Rule(
            f"type(self) == int ? self >= 1 && self <= {LARGEST_BUDGET} : self == 'auto'",
            _BUDGET,
            lambda text: text == "auto" or (text.isdecimal() and 1 <= int(text) <= LARGEST_BUDGET),
        )
    ),
    BeforeValidator(_digits),
]


class Verifier(Pods):
    """The cells: identical verifiers, each with its own budget and drafters."""

    replicas: Annotated[int, Field(ge=0, le=64)] = 1
    """How many cells; 0 rests the fleet."""
    budget_tokens: Budget = "32"
    """C: draft tokens in flight per cell; auto follows the measured cost curve."""
    latency_target: Annotated[DurationText, Checked(*between("latencyTarget", "1ms", "1m").rules)] | None = (
        None
    )
    """Longest time a round may take, for budgetTokens auto."""
    verification: Literal["rejection", "coupled"] = "rejection"
    """Rule that keeps answers lossless: rejection sampling, or noise shared by both sides."""
    barrier: bool = False
    """Rounds wait for every draft, as the paper's do; for comparison."""
    max_sequences: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Sequences a cell holds at once; without a number, 32."""
    max_waiting: Annotated[int, Field(ge=0, le=65_536)] | None = None
    """Sequences of one drafter that may wait for a place, more are refused; without a number, 256."""
    turn_seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    """How long a sequence keeps its place before another tenant's or drafter's may take it, in seconds;
    without a number, 5."""
    prefill_chunk_tokens: Annotated[int, Field(ge=16, le=65_536)] | None = None
    """Most prompt tokens read in one round; without a number, 256."""
    prefill_share: Annotated[float, Field(ge=0, le=100)] | None = None
    """How much longer prompts may make a round with drafts in it, as a fraction; without a number, 0.5."""
    prefix_sharing: Literal["off", "tenant", "cell"] = DEFAULT_PREFIX_SHARING
    """Among whose requests what was computed of equal beginnings is shared: nobody's ("off", in quotes), each
    tenant's own, or all of a cell."""
    batch_invariant: bool = False
    """Whether a sequence's logits have the same bits whatever shares its passes, so that load does not change
    answers at temperature 0 or coupled ones; costs time, but for the compiled pass on CPUs."""
    max_draft_tokens: Annotated[int, Field(ge=1, le=64)] | None = None
    """Longest draft a cell accepts; without a number, 16."""
