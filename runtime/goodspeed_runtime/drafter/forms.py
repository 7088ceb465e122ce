"""The shape of an answer's JSON: OpenAI's chats and completions, whole and in chunks."""

from __future__ import annotations

import time
import uuid
from typing import Any

from goodspeed_runtime.drafter.completion import Piece, Whole
from goodspeed_runtime.drafter.schemas import ChatRequest, CompletionRequest


class Form:
    """The shape of an answer's JSON; what chats and completions share."""

    kind = ""
    prefix = ""

    def __init__(self, request: ChatRequest | CompletionRequest) -> None:
        self.request = request
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def head(self, *, chunk: bool) -> dict[str, Any]:
        """What every object of one answer begins with."""
        return {
            "id": self._id,
            "object": self.kind + (".chunk" if chunk and self.kind.startswith("chat") else ""),
            "created": self._created,
            "model": self.request.model,
        }

    def _ids(self, tokens: list[int]) -> dict[str, Any]:
        return {"token_ids": tokens} if self.request.return_token_ids else {}

    def _prompt_ids(self, prompts: list[list[int]]) -> dict[str, Any]:
        return {"prompt_token_ids": prompts[0]} if self.request.return_token_ids else {}

    def content(self, text: str) -> dict[str, Any]:
        """A choice's text, whole."""
        raise NotImplementedError

    def delta(self, text: str, *, begins: bool) -> dict[str, Any]:
        """A choice's text, the next bit of it."""
        raise NotImplementedError

    def whole(self, prompts: list[list[int]], wholes: list[Whole], usage: dict[str, int]) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        choices = [
            {
                "index": index,
                **self.content(whole.text),
                "logprobs": None,
                "finish_reason": whole.finish,
                **self._ids(whole.tokens),
            }
            for index, whole in enumerate(wholes)
        ]
        return {**self.head(chunk=False), "choices": choices, "usage": usage, **self._prompt_ids(prompts)}

    def chunk(self, index: int, piece: Piece, *, begins: bool, prompts: list[list[int]]) -> dict[str, Any]:
        """One event of a stream."""
        choice = {
            "index": index,
            **self.delta(piece.text, begins=begins),
            "logprobs": None,
            "finish_reason": piece.finish,
            **self._ids(piece.tokens),
        }
        first = self._prompt_ids(prompts) if begins and index == 0 else {}
        return {**self.head(chunk=True), "choices": [choice], **first}


class ChatForm(Form):
    """/v1/chat/completions."""

    kind = "chat.completion"
    prefix = "chatcmpl"

    def content(self, text: str) -> dict[str, Any]:  # noqa: D102
        return {"message": {"role": "assistant", "content": text}}

    def delta(self, text: str, *, begins: bool) -> dict[str, Any]:  # noqa: D102
        return {"delta": {"role": "assistant", "content": text} if begins else {"content": text}}


class CompletionForm(Form):
    """/v1/completions."""

    kind = "text_completion"
    prefix = "cmpl"

    def content(self, text: str) -> dict[str, Any]:  # noqa: D102
        return {"text": text}

    def delta(self, text: str, *, begins: bool) -> dict[str, Any]:  # noqa: D102
        return {"text": text}
