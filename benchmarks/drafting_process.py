"""A drafter of `gpu_end_to_end`: the product's generation, engine and stream, without HTTP before them.

The other ways have no server between them and their user, so neither has this one; between drafter and
verifier is gRPC, as always. Reads a work a line from standard input and answers each with a line of answers.
Drafts come from a model's URI, ``ngram://``, ``shape://NAME`` (random weights) or ``synthetic://``, which
drafts for nothing: tokens out of thin air, for verifiers whose acceptance is synthetic.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.drafter.confidence import Calibration
from goodspeed_runtime.drafter.engine import Draft, DraftEngine, Job
from goodspeed_runtime.drafter.generation import Generation
from goodspeed_runtime.drafter.lookup import LookupEngine
from goodspeed_runtime.drafter.settings import DrafterSettings
from goodspeed_runtime.metrics import DrafterMetrics
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_runtime.protocol.wire import DraftBlock
from random_model import SHAPES
from work import Answer

CONNECT_SECONDS, STILL_SECONDS = 60.0, 60.0


class SyntheticDrafts:
    """Drafts that cost nothing and mean nothing; how many tokens pay is learnt from the verdicts."""

    fingerprint = "synthetic"

    def __init__(self, vocabulary_size: int) -> None:
        self._vocabulary = vocabulary_size
        self._rng = np.random.default_rng(0)
        self._calibration = Calibration()

    def draft(self, jobs: Sequence[Job]) -> list[Draft]:
        """See `DraftEngine.draft`."""
        drafts = []
        for job in jobs:
            confidence = [1.0] * job.grant
            count = self._calibration.worth(confidence, job.least_chance)
            tokens = self._rng.integers(0, self._vocabulary, count).tolist()
            drafts.append(Draft(DraftBlock.point_masses(tokens), confidence[:count]))
        return drafts

    def learn(self, confidence: float, stood: bool) -> None:
        """See `DraftEngine.learn`."""
        self._calibration.learn(confidence, stood)

    def release(self, key: int) -> None:
        """See `DraftEngine.release`."""


def _engine(options: argparse.Namespace) -> tuple[DraftEngine, str, int]:
    """The engine, and the target's tokenizer: fingerprint and size."""
    kind, _, rest = options.draft.partition("://")
    tokenizer, size = "random", 0
    if options.target in SHAPES:
        size = SHAPES[options.target]["vocab_size"]
    else:
        from goodspeed_runtime.models.tokenizer import load_tokenizer

        found = load_tokenizer(ModelURI.parse(options.target))
        tokenizer, size = found.fingerprint, found.vocabulary_size
    if kind == "ngram":
        return LookupEngine(), tokenizer, size
    if kind == "synthetic":
        return SyntheticDrafts(size), tokenizer, size

    import torch

    from goodspeed_runtime.drafter.model_engine import ModelEngine

    if options.device == "cpu":
        torch.set_num_threads(1)
    loaded: Any
    if kind == "shape":
        from random_model import random_module

        loaded = SimpleNamespace(
            module=random_module(rest, options.device), fingerprint="random", proposals=None
        )
    else:
        from goodspeed_runtime.models.loading import load_model

        uri = ModelURI.parse(options.draft)
        loaded = load_model(uri, target=ModelURI.parse(options.target), device=options.device)
    engine = ModelEngine.load(
        loaded,
        slots=options.max_sequences,
        max_context=options.max_context_tokens,
        support_size=32,
        vocabulary_size=size,
    )
    return engine, tokenizer, size


async def _answer(generation: Generation, prompt: list[int], work: dict[str, Any]) -> Answer:
    asked, tokens, arrivals = time.perf_counter(), [], []
    stop = work["stop_token"]
    async for committed in generation.generate(
        prompt,
        max_tokens=work["max_tokens"],
        sampling=Sampling(0.0),
        stop_tokens=() if stop is None else (stop,),
    ):
        tokens += committed.tokens
        arrivals.append((time.perf_counter(), len(tokens)))
    return Answer.timed(tokens, asked, arrivals)


async def _do(generation: Generation, work: dict[str, Any]) -> dict[str, Any]:
    """All prompts, ``at_once`` at a time; on the clock that all processes of a machine share."""
    places = asyncio.Semaphore(work["at_once"])

    async def one(prompt: list[int]) -> Answer:
        async with places:
            return await _answer(generation, prompt, work)

    started = time.perf_counter()
    answers = await asyncio.gather(*(one(prompt) for prompt in work["prompts"]))
    return {
        "started": started,
        "ended": time.perf_counter(),
        "answers": [asdict(answer) for answer in answers],
    }


async def _serve(options: argparse.Namespace) -> None:
    engine, tokenizer, size = await asyncio.to_thread(_engine, options)
    settings = DrafterSettings(
        name=options.name,
        pool=options.draft,
        cluster="benchmark",
        model=options.draft,
        target=options.target,
        verifiers=(options.verifier,),
        served_model_name="benchmark",
        max_draft_tokens=options.max_draft_tokens,
        max_sequences=options.max_sequences,
        request_seconds=STILL_SECONDS,
        # What a coin lets stand is followed by no token that could be guessed: nothing is to be won.
        draft_ahead=options.target not in SHAPES,
    )
    metrics = DrafterMetrics("benchmark", options.draft, options.name)
    generation = Generation(settings, engine, metrics, tokenizer_fingerprint=tokenizer, vocabulary_size=size)
    running = asyncio.create_task(generation.run())
    async with asyncio.timeout(CONNECT_SECONDS):
        while not generation.link.connected:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)
    _say({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        _say(await _do(generation, json.loads(line)))
    running.cancel()


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    """Drafts until standard input ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draft", required=True, help="builtin://, file:// or other model URI, or as above")
    parser.add_argument("--target", required=True, help="URI, or the name of a shape")
    parser.add_argument("--verifier", required=True, help="host:port")
    parser.add_argument("--name", default="drafter")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--max-sequences", type=int, default=64)
    parser.add_argument("--max-draft-tokens", type=int, default=8)
    parser.add_argument("--max-context-tokens", type=int, default=1024)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
