"""The demo's users: prompts of several kinds, asked of every drafter at once over the OpenAI API."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question of some kind, and who the model is to be, if anyone."""

    identity: str
    kind: str
    text: str
    system: str = ""

    @property
    def messages(self) -> list[dict[str, str]]:
        """As a chat."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.text}]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt for one drafter, with how to sample."""

    drafter: str
    prompt: Prompt
    temperature: float
    seed: int


@dataclass(slots=True)
class Reply:
    """What came back; `error` is empty when all of it did."""

    question: Question
    text: str = ""
    prompt_token_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish: str = ""
    began: float = 0.0
    ended: float = 0.0
    error: str = ""


def read_prompts(file: Path) -> list[Prompt]:
    """Prompts from JSON lines with id, kind, prompt and maybe system.

    Raises:
        ValueError: a line that is none, by its number.
    """
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            fields = json.loads(line)
            found.append(Prompt(fields["id"], fields["kind"], fields["prompt"], fields.get("system") or ""))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}:{number}: want an object with id, kind and prompt: {error}") from error
    if not found:
        raise ValueError(f"{file}: holds no prompts")
    return found


def plan(prompts: Iterable[Prompt], drafters: Sequence[str], per_kind: int, seed: int) -> list[Question]:
    """Deals kinds to drafters, so that each has users of its own kinds, and draws prompts of each kind.

    Half of them are asked at temperature 0, half at 1; a drafter left without a
    kind shares one. The order interleaves drafters.
    """
    by_kind: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_kind.setdefault(prompt.kind, []).append(prompt)
    kinds = sorted(by_kind)
    draw = random.Random(seed)  # noqa: S311 - a choice of examples
    questions = []
    for deal in range(max(len(kinds), len(drafters))):
        kind, drafter = kinds[deal % len(kinds)], drafters[deal % len(drafters)]
        chosen = draw.sample(by_kind[kind], min(per_kind, len(by_kind[kind])))
        for turn, prompt in enumerate(chosen):
            questions.append((turn, Question(drafter, prompt, float(turn % 2), draw.randrange(2**31))))
    return [question for _, question in sorted(questions, key=lambda each: each[0])]


async def served_model(http: httpx.AsyncClient, url: str) -> str:
    """The model that an API serves, by its own account."""
    response = await http.get(f"{url}/v1/models", timeout=10)
    response.raise_for_status()
    return str(response.json()["data"][0]["id"])


async def ask_all(
    questions: Sequence[Question],
    urls: Mapping[str, str],
    *,
    headers: Mapping[str, str],
    max_tokens: int,
    in_flight: int,
    timeout: float,  # noqa: ASYNC109
    answered: Callable[[Reply], None],
) -> list[Reply]:
    """Asks every question, some at a time per drafter.

    Args:
        questions: in the order to begin with them.
        urls: of drafters, by name.
        headers: of every request.
        max_tokens: of an answer.
        in_flight: questions under way per drafter.
        timeout: seconds that an answer may make no progress.
        answered: told each reply.
    """
    turns = {name: asyncio.Semaphore(in_flight) for name in urls}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits, trust_env=False) as http:
        models = {name: await served_model(http, url) for name, url in urls.items()}

        async def one(question: Question) -> Reply:
            async with turns[question.drafter]:
                body = {
                    "model": models[question.drafter],
                    "messages": question.prompt.messages,
                    "temperature": question.temperature,
                    "seed": question.seed,
                    "max_tokens": max_tokens,
                    "stream": True,
                    "return_token_ids": True,
                }
                reply = await _ask(http, urls[question.drafter], question, body)
            answered(reply)
            return reply

        return list(await asyncio.gather(*(one(question) for question in questions)))


async def _ask(http: httpx.AsyncClient, url: str, question: Question, body: Mapping[str, Any]) -> Reply:
    reply = Reply(question, began=time.monotonic())
    try:
        async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                reply.error = f"{response.status_code} {(await response.aread()).decode(errors='replace')}"
                return reply
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    _take(reply, json.loads(line.removeprefix("data: ")))
    except (httpx.HTTPError, ValueError) as error:
        reply.error = str(error) or type(error).__name__
    if not reply.error and not reply.finish:
        reply.error = "the stream ended before the answer did"
    reply.ended = time.monotonic()
    return reply


def _take(reply: Reply, event: Mapping[str, Any]) -> None:
    if "error" in event:
        reply.error = str(event["error"].get("message", event["error"]))
        return
    reply.prompt_token_ids = event.get("prompt_token_ids") or reply.prompt_token_ids
    for choice in event.get("choices", ()):
        reply.prompt_token_ids = choice.get("prompt_token_ids") or reply.prompt_token_ids
        reply.token_ids += choice.get("token_ids") or []
        reply.text += choice.get("delta", {}).get("content") or ""
        reply.finish = choice.get("finish_reason") or reply.finish
