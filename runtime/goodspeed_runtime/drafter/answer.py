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


@dataclass(slots=True)
class Grant:
    """Leave to draft.

    Attributes:
        tokens: most tokens.
        least_chance: at which a token is worth its budget.
        came: monotonic seconds.
        redone: times that a draft for it was overtaken and made again.
    """

    tokens: int
    least_chance: float
    came: float
    redone: int = 0


@dataclass(slots=True)
class Flight:
    """A draft that was sent, as far as it still follows what was committed.

    Attributes:
        tokens: what may still be accepted.
        confidence: of each.
        sent: monotonic seconds.
    """

    tokens: list[int]
    confidence: list[float]
    sent: float


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
        tenant: who asks, or empty.
        grant: what may be drafted next.
        flight: the draft that a verdict will answer.
        opening: the verifier has yet to open it.
        guess: what the engine believes comes next, the flight's tokens first.
        exhausted: the engine had nothing to add to that.
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
    tenant: str = ""
    grant: Grant | None = None
    flight: Flight | None = None
    opening: bool = False
    guess: list[int] = field(default_factory=list)
    exhausted: bool = False
    opens: int = 0
    retries: int = 0
    events: asyncio.Queue[Committed | AnswerError] = field(default_factory=asyncio.Queue)

    @property
    def ahead(self) -> int:
        """Tokens guessed beyond those that were sent."""
        return len(self.guess) - (len(self.flight.tokens) if self.flight else 0)

    def believe(self, size: int, guess: list[int]) -> bool:
        """Takes in what the engine guesses comes after the first ``size`` tokens; was it news?"""
        since = self.tokens[size:]
        new = guess[len(since) :] if guess[: len(since)] == since else []
        if self.guess[: len(new)] == new:
            return False
        self.guess = new
        return True

    def commit(self, tokens: list[int], finish: FinishReason | None) -> None:
        """Takes in what a verdict committed."""
        if self.flight is not None:
            follows = self.flight.tokens[: len(tokens)] == tokens
            del self.flight.tokens[: len(tokens) if follows else None]
            del self.flight.confidence[: len(tokens) if follows else None]
        self.guess = self.guess[len(tokens) :] if self.guess[: len(tokens)] == tokens else []
        self.exhausted = False
        self.tokens.extend(tokens)
        self.events.put_nowait(Committed(tokens, finish))
