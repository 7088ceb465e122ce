"""One answer being generated: the drafter owns its committed tokens.

Whatever happens to a verifier, what is here is the truth: it is what the user
has been given, and what a new verifier is told to go on from.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from goodspeed_runtime.decoding.sampling import Sampling

FinishReason = Literal["stop", "length"]


class AnswerError(Exception):
    """An answer cannot go on.

    Attributes:
        status: HTTP status to answer with.
        code: OpenAI's error code.
        param: the request's field that is to blame.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


@dataclass(frozen=True, slots=True)
class Committed:
    """Tokens that were committed together, and why the answer ended with them."""

    tokens: list[int]
    finish: FinishReason | None


@dataclass(slots=True, eq=False)
class Answer:
    """A sequence from the drafter's side.

    Attributes:
        key: its number on the stream.
        tokens: prompt and everything committed.
        prompt_tokens: how many of them are the prompt.
        max_tokens: most tokens to commit.
        sampling: the request's.
        stop_tokens: ids that end it.
        grant: draft tokens allowed next; None while a verdict is awaited.
        drafted: the draft that the verdict will be about.
        opens: times it was opened.
        retries: times in a row it was opened again after a verifier's error.
        events: what the request waits for; at most one entry a round, so as long as the answer at most.
    """

    key: int
    tokens: list[int]
    prompt_tokens: int
    max_tokens: int
    sampling: Sampling
    stop_tokens: tuple[int, ...]
    grant: int | None = None
    drafted: list[int] = field(default_factory=list)
    opens: int = 0
    retries: int = 0
    events: asyncio.Queue[Committed | AnswerError] = field(default_factory=asyncio.Queue)

    def commit(self, tokens: list[int], finish: FinishReason | None) -> None:
        """Takes in what a verdict committed."""
        self.tokens.extend(tokens)
        self.events.put_nowait(Committed(tokens, finish))
