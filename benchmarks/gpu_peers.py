"""What else answers prompts on a GPU: transformers' ways, each alone in a process of its own.

    python benchmarks/gpu_peers.py WAY < works

Reads lines of JSON from standard input, each a work and another to warm up with (`Work`); works differ in
what is at once. Answers each with a line: when it started and ended, and the answers. The model is a URI, or
a shape with random weights (`random_model`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from random_model import SHAPES, random_module
from transformers_ways import continuous, generate
from work import Answer, Work

LOOKUP_TOKENS = 4
Run = Callable[[Work], list[Answer]]


def _module(work: Work) -> Any:
    import torch

    if work.threads:
        torch.set_num_threads(work.threads)
    if work.model in SHAPES:
        return random_module(work.model, work.device)
    return _loaded(work.model, work)


def _loaded(uri: str, work: Work) -> Any:
    from goodspeed_runtime.models.loading import load_model
    from goodspeed_runtime.models.uri import ModelURI

    target = ModelURI.parse(work.model)
    return load_model(ModelURI.parse(uri), target=target, device=work.device).module


@contextlib.contextmanager
def batches(module: Any, _: Work) -> Iterator[Run]:
    """`generate` over as many prompts at once as are under way, batch after batch."""
    yield lambda work: generate(module, work, work.at_once)


@contextlib.contextmanager
def assisted(module: Any, sized: Work, drafter: str) -> Iterator[Run]:
    """Assisted generation by a small model: it takes one prompt, so the rest wait for their turn."""
    assistant = _loaded(drafter, sized)
    yield lambda work: generate(module, work, 1, assistant_model=assistant)


@contextlib.contextmanager
def lookup(module: Any, _: Work) -> Iterator[Run]:
    """Prompt lookup: it takes one prompt, so the rest wait for their turn."""
    yield lambda work: generate(module, work, 1, prompt_lookup_num_tokens=LOOKUP_TOKENS)


WAYS: dict[str, Callable[[Any, Work], contextlib.AbstractContextManager[Run]]] = {
    "generate": batches,
    **{
        f"assisted-{layers}l": lambda module, sized, layers=layers: assisted(
            module, sized, f"builtin://smollm2-135m-draft-{layers}l"
        )
        for layers in (1, 2, 4)
    },
    "lookup": lookup,
    "continuous": continuous,
    "continuous-graphs": lambda module, sized: continuous(module, sized, use_cuda_graph=True),
}
ONE_BY_ONE = {name for name in WAYS if name.startswith(("assisted", "lookup"))}
"""Ways whose rate does not depend on how many wait."""


def main() -> None:
    """Answers works until there are no more."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("way", choices=WAYS)
    way = parser.parse_args().way
    module = None
    for line in sys.stdin:
        message = json.loads(line)
        work = Work(**message["work"])
        if module is None:
            module = _module(work)
        with WAYS[way](module, work) as run:
            run(Work(**message["warm_up"]))
            started = time.perf_counter()
            answers = run(work)
            ended = time.perf_counter()
        found = {"started": started, "ended": ended, "answers": [asdict(answer) for answer in answers]}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
