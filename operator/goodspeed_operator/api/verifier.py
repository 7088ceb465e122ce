"""The verifiers: cells of the fleet, each with the target model and a token budget."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

from goodspeed_operator.api.part import Checked, Rule
from goodspeed_operator.api.pods import Pods
from goodspeed_operator.api.scalars import DurationText, between

LARGEST_BUDGET = 65_536
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
    """Sequences a cell holds at once; without a number, what memory allows."""
    prefill_chunk_tokens: Annotated[int, Field(ge=16, le=65_536)] | None = None
    """Prompt tokens read between two rounds; without a number, the server's choice."""
    max_draft_tokens: Annotated[int, Field(ge=1, le=64)] | None = None
    """Longest draft a cell accepts; without a number, the server's choice."""
