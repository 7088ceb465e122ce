"""Requests to answers: prompts tokenised and checked, tokens turned to text, usage counted."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.drafter.answer import AnswerError, FinishReason
from goodspeed_runtime.drafter.generation import Generation
from goodspeed_runtime.drafter.schemas import SEED_LIMIT, ChatRequest, CompletionRequest
from goodspeed_runtime.drafter.text import AnswerText
from goodspeed_runtime.models.tokenizer import ChatTemplateError, Tokenizer

Request = ChatRequest | CompletionRequest

_MOST_TOKENS = 1 << 30
_LEAST_TOP_P = 1e-6
"""Lower ones mean the same, the likeliest token alone, and the wire's float32 must not make them 0."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A bit of an answer: its text, the tokens it is made of, and why it ended there."""

    text: str
    tokens: list[int]
    finish: FinishReason | None


@dataclass(slots=True)
class Whole:
    """A finished answer."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason = "length"


class Completions:
    """Answers requests through a `Generation`."""

    def __init__(self, generation: Generation, tokenizer: Tokenizer, served_model_name: str) -> None:
        self._generation = generation
        self._tokenizer = tokenizer
        self.served_model_name = served_model_name

    @property
    def patience_seconds(self) -> float:
        """How long a client may leave its stream unread."""
        return self._generation.request_seconds

    def prompts(self, request: Request) -> list[list[int]]:
        """The request's prompts as tokens.

        Raises:
            AnswerError: another model is meant, or a prompt cannot be used.
        """
        if request.model != self.served_model_name:
            raise AnswerError(
                404,
                "model_not_found",
                f"model {request.model!r} is not served here; {self.served_model_name!r} is",
                "model",
            )
        if isinstance(request, ChatRequest):
            try:
                found = [self._tokenizer.render_chat([m.plain() for m in request.messages])]
            except ChatTemplateError as error:
                raise AnswerError(400, "invalid_value", str(error), "messages") from error
        else:
            found = self._plain(request)
        for prompt in found:
            self._check(prompt, request)
        return found

    def _plain(self, request: CompletionRequest) -> list[list[int]]:
        prompt = request.prompt
        if isinstance(prompt, str):
            return [self._tokenizer.encode(prompt)]
        if isinstance(prompt[0], int):
            return [[int(token) for token in prompt if isinstance(token, int)]]
        return [
            self._tokenizer.encode(p) if isinstance(p, str) else list(p)
            for p in prompt
            if not isinstance(p, int)
        ]

    def _check(self, prompt: list[int], request: Request) -> None:
        name = "messages" if isinstance(request, ChatRequest) else "prompt"
        if not prompt:
            raise AnswerError(
                400, "invalid_value", f"{name}: an empty prompt has nothing to go on from", name
            )
        if max(prompt) >= self._tokenizer.vocabulary_size:
            raise AnswerError(
                400,
                "invalid_value",
                f"{name}: token {max(prompt)} is outside the vocabulary of {self._tokenizer.vocabulary_size}",
                name,
            )
        context = self._generation.max_context_tokens
        if context and len(prompt) >= context:
            raise AnswerError(
                400,
                "context_length_exceeded",
                f"{name}: {len(prompt)} tokens leave no room in this model's context of {context} tokens",
                name,
            )

    def _sampling(self, request: Request, choice: int, seed: int) -> Sampling:
        # A drafter's q shapes itself by these too, but only the target decides what is said.
        return Sampling(
            request.temperature,
            max(request.top_k, 0),
            max(request.top_p, _LEAST_TOP_P),
            (seed + choice) % SEED_LIMIT,
        )

    def seed(self, request: Request) -> int:
        """The request's seed, or a fresh one."""
        return secrets.randbits(64) if request.seed is None else request.seed % SEED_LIMIT

    async def pieces(
        self, request: Request, prompt: list[int], choice: int, seed: int, tenant: str
    ) -> AsyncIterator[Piece]:
        """One answer as it comes, for a tenant or, where that is empty, on the drafter's own account.

        Raises:
            AnswerError: it cannot be started or cannot go on.
        """
        text = AnswerText(self._tokenizer.text_stream(prompt), request.stop)
        committed = self._generation.generate(
            prompt,
            max_tokens=min(request.max_tokens or _default_max_tokens(request), _MOST_TOKENS),
            sampling=self._sampling(request, choice, seed),
            stop_tokens=() if request.ignore_eos else self._tokenizer.stop_tokens,
            tenant=tenant,
        )
        async with aclosing(committed) as events:  # type: ignore[type-var]
            async for event in events:
                shown, used = "", []
                for token in event.tokens:
                    used.append(token)
                    shown += text.push(token)
                    if text.stopped:
                        yield Piece(shown, used, "stop")
                        return
                if event.finish is not None:
                    shown += text.finish()
                yield Piece(shown, used, event.finish)

    async def whole(self, request: Request, prompt: list[int], choice: int, seed: int, tenant: str) -> Whole:
        """One answer, all of it."""
        answer = Whole()
        stream = self.pieces(request, prompt, choice, seed, tenant)
        async with aclosing(stream) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                answer.text += piece.text
                answer.tokens += piece.tokens
                answer.finish = piece.finish or answer.finish
        return answer


def _default_max_tokens(request: Request) -> int:
    """OpenAI's own defaults: 16 for a completion, the rest of the context for a chat."""
    return 16 if isinstance(request, CompletionRequest) else _MOST_TOKENS
