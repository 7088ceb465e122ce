"""What every way of answering has to do, and what came of it; shared by the end-to-end benchmarks."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from goodspeed_runtime.models.tokenizer import load_tokenizer
from goodspeed_runtime.models.uri import ModelURI


@dataclass(frozen=True)
class Work:
    """What every way has to do.

    Attributes:
        model: URI, or the name of a shape with random weights.
        prompts: token ids.
        at_once: prompts under way at any time.
        max_tokens: of an answer; it ends earlier at a stop token.
        stop_token: its id; None for answers that end nowhere else.
        threads: of the whole process on a CPU; 0 leaves it to torch.
        device: "cpu" or "cuda".
    """

    model: str
    prompts: list[list[int]]
    at_once: int
    max_tokens: int
    stop_token: int | None
    threads: int = 0
    device: str = "cpu"

    def warm_up(self, spare: Sequence[list[int]]) -> Work:
        """A shorter work of other prompts."""
        return replace(self, prompts=list(spare[: self.at_once]), max_tokens=max(2, self.max_tokens // 4))


@dataclass
class Answer:
    """One answer.

    Attributes:
        tokens: ids, a stop token included.
        first: seconds from asking to the first token.
        gaps: seconds between tokens, one less than there are tokens; tokens that came together share theirs.
    """

    tokens: list[int]
    first: float = float("nan")
    gaps: list[float] = field(default_factory=list)

    @classmethod
    def timed(cls, tokens: Sequence[int], asked: float, arrivals: Sequence[tuple[float, int]]) -> Answer:
        """An answer of which ``(seconds, tokens that were there by then)`` are known, in order."""
        answer = cls(list(tokens))
        last, there = asked, 0
        for when, count in arrivals:
            fresh = min(count, len(tokens)) - there
            if fresh <= 0:
                continue
            if not there:
                answer.first, fresh, there = when - asked, fresh - 1, 1
                # What came with the first token came without any wait.
                answer.gaps += [0.0] * fresh
            else:
                answer.gaps += [(when - last) / fresh] * fresh
            there, last = there + fresh, when
        return answer


@dataclass
class Figures:
    """What a user of one way sees.

    Attributes:
        requests, tokens: answered.
        seconds: from the first request to the end of the last answer.
        tokens_per_second: committed, of all users together.
        first_token_ms: median.
        inter_token_ms, p95_inter_token_ms: median and 95th percentile over all tokens but the first.
    """

    requests: int
    tokens: int
    seconds: float
    tokens_per_second: float
    first_token_ms: float
    inter_token_ms: float
    p95_inter_token_ms: float

    @classmethod
    def of(cls, answers: Sequence[Answer], seconds: float) -> Figures:
        """Of answers that were given in so many seconds."""
        tokens = sum(len(answer.tokens) for answer in answers)
        gaps = sorted(gap for answer in answers for gap in answer.gaps) or [float("nan")]
        return cls(
            len(answers),
            tokens,
            seconds,
            tokens / seconds,
            1e3 * statistics.median(answer.first for answer in answers),
            1e3 * statistics.median(gaps),
            1e3 * gaps[min(len(gaps) - 1, int(0.95 * len(gaps)))],
        )


def chat_prompts(model: str, file: Path, count: int) -> list[list[int]]:
    """The first prompts of a file of JSON lines, by the model's chat template."""
    tokenizer = load_tokenizer(ModelURI.parse(model))
    prompts = []
    for line in file.read_text().splitlines()[:count]:
        entry = json.loads(line)
        system = [{"role": "system", "content": entry["system"]}] if entry.get("system") else []
        prompts.append(list(tokenizer.render_chat([*system, {"role": "user", "content": entry["prompt"]}])))
    return prompts


def numbers(text: str) -> list[int]:
    """Of an option's value, with commas between."""
    return [int(part) for part in text.split(",")]
