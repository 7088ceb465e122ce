"""How transformers answers prompts greedily, timed; shared by the peers on CPUs and on GPUs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.continuous_batching.utils import WorkloadHints

from work import Answer, Work

_PAGE_TOKENS = 256
"""Of continuous batching's cache, as it comes."""
WAIT_SECONDS = 60.0
"""Longest wait for the next answer of a batch manager before it counts as broken."""


class Clock(StoppingCriteria):  # type: ignore[misc]
    """Stops nothing; notes when a step has ended, and how many tokens a row holds by then."""

    def __init__(self, prompt: int) -> None:
        self._prompt = prompt
        self._never: torch.Tensor | None = None
        self.arrivals: list[tuple[float, int]] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Called by `generate` after every step."""
        self.arrivals.append((time.perf_counter(), input_ids.shape[1] - self._prompt))
        if self._never is None:
            self._never = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        return self._never


def configured(work: Work, **options: Any) -> GenerationConfig:
    """Greedy, to the same end as every other way."""
    padding = 0 if work.stop_token is None else work.stop_token
    return GenerationConfig(
        max_new_tokens=work.max_tokens,
        do_sample=False,
        eos_token_id=work.stop_token,
        pad_token_id=padding,
        **options,
    )


def generate(module: Any, work: Work, size: int, **options: Any) -> list[Answer]:
    """`generate` over batches of ``size`` prompts, one batch after the other.

    A batch's prompts are padded at the left and its answers are there when the longest is; answers of a
    further batch are asked for when theirs begins.
    """
    config = configured(work)
    padding, answers = config.pad_token_id, []
    for first in range(0, len(work.prompts), size):
        batch = work.prompts[first : first + size]
        width = max(map(len, batch))
        ids = torch.tensor([[padding] * (width - len(p)) + p for p in batch], device=module.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=module.device)
        clock, asked = Clock(width), time.perf_counter()
        rows = module.generate(
            ids,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([clock]),
            **options,
        )
        for row in rows[:, width:].tolist():
            ended = work.stop_token in row
            tokens = row[: row.index(work.stop_token) + 1] if ended else row
            answers.append(Answer.timed(tokens, asked, clock.arrivals))
    return answers


@contextlib.contextmanager
def continuous(module: Any, work: Work, **options: Any) -> Iterator[Callable[[Work], list[Answer]]]:
    """Continuous batching, as `generate_batch` runs it, kept up between calls.

    No prefix is shared: works repeat none but a short system prompt, and a warm-up must not answer for what
    is measured. On a CPU, where it would take most of the memory, its cache is what the work needs. The rest
    is left to it, but for ``options`` of `ContinuousBatchingConfig`.

    Yields what answers the prompts of a work: ``at_once`` are under way at any time. Sized for ``work``.

    Raises:
        RuntimeError: it has stopped, or failed at an answer.
    """
    longest = max(map(len, work.prompts))
    settings = ContinuousBatchingConfig(allow_block_sharing=False, **options)
    if work.device == "cpu":
        blocks = (longest + work.max_tokens) // _PAGE_TOKENS + 2
        settings.max_batch_tokens, settings.num_blocks = 256, blocks * (work.at_once + 1)
    # As `generate_batch` does.
    hints = WorkloadHints(longest, work.max_tokens, work.at_once)
    with module.continuous_batching_context_manager(
        generation_config=configured(work),
        continuous_batching_config=settings,
        workload_hints=hints,
        block=True,
        timeout=5,
    ) as manager:
        yield lambda work: _serve(manager, work)


def _serve(manager: Any, work: Work) -> list[Answer]:
    answers: dict[str, Answer] = {}
    asked: dict[str, float] = {}
    waiting = iter(work.prompts)

    def ask() -> None:
        prompt = next(waiting, None)
        if prompt is not None:
            now = time.perf_counter()
            name = manager.add_request(prompt, max_new_tokens=work.max_tokens, record_timestamps=True)
            asked[name] = now

    for _ in range(work.at_once):
        ask()
    last = time.monotonic()
    while len(answers) < len(asked):
        result = manager.get_result(timeout=1)
        if result is None:
            if not manager.is_running() or time.monotonic() - last > WAIT_SECONDS:
                raise RuntimeError("continuous batching has stopped")
            continue
        if result.error is not None:
            raise RuntimeError(f"continuous batching: {result.error}")
        if result.is_finished():
            last = time.monotonic()
            came = [(when, count) for count, when in enumerate(result.timestamps or [], 1)]
            tokens = list(result.generated_tokens)
            answers[result.request_id] = Answer.timed(tokens, asked[result.request_id], came)
            ask()
    return [answers[name] for name in asked]
