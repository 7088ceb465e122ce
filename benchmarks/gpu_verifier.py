"""A verifier's rounds on one GPU against the memory-bandwidth floor.

A model of Qwen3's shape with random weights; the KV cache is full of random keys
and values, so nothing is prefilled. Each round is all that a verifier does on the
device and around it: lay out the batch, one pass, the lossless test, verdicts on
the host, roll back. How many drafted tokens stand is drawn by a seeded coin of the
given acceptance (synthetic: random weights accept nothing), the test itself is run
and timed all the same. The floor is every weight and every cached key and value
read once, at the bandwidth of a large device-to-device copy measured in this run.
Beside it stands the arithmetic of the matrix products at the rate of a large one
measured in this run: where it is the longer, bandwidth is not what binds.

    python benchmarks/gpu_verifier.py --shape 8b [--weights int8] --json build/gpu_verifier.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from rich.console import Console

from goodspeed_runtime.decoding.fused.judging import launch
from goodspeed_runtime.decoding.fused.model import FusedModel
from goodspeed_runtime.decoding.int8 import rounded_linears
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.verification import Request
from goodspeed_runtime.models.dtype import Weights
from goodspeed_runtime.protocol.wire import DraftBlock
from random_model import SHAPES, random_module
from rows import tabled

VOCABULARY, KV_HEADS, HEAD_SIZE = (
    SHAPES["8b"][name] for name in ("vocab_size", "num_key_value_heads", "head_dim")
)
# Sequences, drafted tokens, context.
GRID = [
    *((1, drafted, 1024) for drafted in (0, 4, 8)),
    *((8, drafted, 1024) for drafted in (0, 4)),
    *((16, drafted, 1024) for drafted in (0, 1, 4, 8)),
    *((16, 4, context) for context in (256, 4096)),
    *((64, drafted, 1024) for drafted in (0, 1, 4)),
    (64, 4, 4096),
]
ROUNDS, WARM_UP = 30, 5


@dataclass
class Row:
    """One cell of the grid; times are medians."""

    sequences: int
    drafted: int
    context: int
    sampling: str
    round_ms: float
    p95_round_ms: float
    floor_ms: float
    arithmetic_ms: float
    ratio: float
    device_idle: float
    host_ms: float
    committed_per_second: float
    gain: float


def copy_bandwidth() -> float:
    """Bytes read and written per second by the best of several large copies."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    seconds = []
    for _ in range(12):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return 2 * source.numel() / min(seconds)


def product_rate() -> float:
    """Operations per second of the best of several large bf16 matrix products."""
    size = 8192
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    seconds = []
    for _ in range(8):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.mm(left, right)
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return 2 * size**3 / min(seconds)


@torch.inference_mode()
def build(
    shape: str, weights: Weights, max_context: int, max_sequences: int, max_drafted: int
) -> tuple[FusedModel, int, int]:
    """The model with a full cache, the weights that every pass multiplies by, and their bytes."""
    module = random_module(shape, "cuda")
    count = sum(p.numel() for name, p in module.named_parameters() if "embed_tokens" not in name)
    read = 2 * count
    if weights == "int8":
        # A byte a weight in place of two, and a float32 scale a row.
        read -= sum(linear.weight.numel() - 4 * linear.out_features for linear in rounded_linears(module))
    tokens = max_sequences * (max_drafted + 1)
    model = FusedModel(
        SimpleNamespace(module=module),
        slots=max_sequences,
        max_context=max_context,
        max_tokens=tokens,
        max_rows=tokens,
        weights=weights,
    )
    for places in (*model.cache.keys, *model.cache.values):
        places.normal_()
    for _ in range(max_sequences):
        model.acquire()
    return model, count, read


class Rounds:
    """Rounds of one batch, again and again at the same context."""

    def __init__(
        self,
        model: FusedModel,
        sequences: int,
        drafted: int,
        context: int,
        sampling: Sampling,
        acceptance: float,
    ) -> None:
        self._model, self._context, self._drafted = model, context, drafted
        self._rng = np.random.default_rng(0)
        tokens = self._rng.integers(0, VOCABULARY, (sequences, drafted + 1))
        self._segments = [
            Segment(slot, context - drafted - 1, row.tolist(), drafted + 1) for slot, row in enumerate(tokens)
        ]
        self._requests = [
            Request(context, DraftBlock.point_masses(row[1:].tolist()), sampling) for row in tokens
        ]
        runs = self._rng.random((ROUNDS + WARM_UP, sequences, max(drafted, 1))) < acceptance
        runs[:, :, drafted:] = False
        self._stands = runs.cumprod(axis=2).sum(axis=2)
        self.committed = 0
        self.waited = 0.0

    def round(self, index: int) -> None:
        """One whole round."""
        for segment in self._segments:
            self._model.lengths[segment.slot] = segment.start
        pending = launch(self._model.forward(self._segments), self._requests)
        start = time.perf_counter()
        pending.wait()
        self.waited += time.perf_counter() - start
        for segment, stands in zip(self._segments, self._stands[index].tolist(), strict=True):
            self._model.lengths[segment.slot] = segment.start + stands + 1
            self.committed += stands + 1

    def busy(self) -> float:
        """Seconds the device needs for a round when the host is always ahead of it."""
        for segment in self._segments:
            self._model.lengths[segment.slot] = segment.start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        launch(self._model.forward(self._segments), self._requests)
        start.record()
        for _ in range(10):
            launch(self._model.forward(self._segments), self._requests)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 10 / 1e3


def measure(
    model: FusedModel,
    weights: int,
    weight_bytes: int,
    bandwidth: float,
    rate: float,
    cell: tuple[int, int, int],
    sampling: str,
    acceptance: float,
) -> Row:
    """One cell; the gain over no speculation is filled in later."""
    sequences, drafted, context = cell
    chosen = {
        "greedy": Sampling(0.0),
        "temperature 1": Sampling(1.0, seed=1),
        "top-p 0.9": Sampling(1.0, top_p=0.9, seed=1),
    }[sampling]
    rounds = Rounds(model, sequences, drafted, context, chosen, acceptance)
    for index in range(WARM_UP):
        rounds.round(index)
    rounds.committed, rounds.waited, seconds = 0, 0.0, []
    for index in range(WARM_UP, WARM_UP + ROUNDS):
        start = time.perf_counter()
        rounds.round(index)
        seconds.append(time.perf_counter() - start)
    layers = len(model.cache.keys)
    read = weight_bytes + sequences * context * layers * KV_HEADS * HEAD_SIZE * 2 * 2
    median, floor = statistics.median(seconds), read / bandwidth
    return Row(
        *cell,
        sampling,
        round_ms=1e3 * median,
        p95_round_ms=1e3 * float(np.quantile(seconds, 0.95)),
        floor_ms=1e3 * floor,
        arithmetic_ms=2e3 * weights * sequences * (drafted + 1) / rate,
        ratio=median / floor,
        device_idle=max(0.0, 1 - rounds.busy() / median),
        host_ms=1e3 * (sum(seconds) - rounds.waited) / ROUNDS,
        committed_per_second=rounds.committed / ROUNDS / median,
        gain=0.0,
    )


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=("8b", "14b"), default="8b")
    parser.add_argument("--weights", choices=("model", "int8"), default="model", help="of linear layers")
    parser.add_argument("--acceptance", type=float, default=0.8, help="of the synthetic coin")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "gpu_verifier: torch sees no CUDA device here\n")
    console = Console(width=150)
    bandwidth, rate = copy_bandwidth(), product_rate()
    # The larger shape leaves no room for long contexts of many sequences on 80 GB.
    grid = [cell for cell in GRID if options.shape == "8b" or cell[2] <= 1024]
    model, *weights = build(
        options.shape, options.weights, max(c for _, _, c in grid), max(s for s, _, _ in grid), 8
    )
    rows = [measure(model, *weights, bandwidth, rate, cell, "greedy", options.acceptance) for cell in grid]
    rows += [
        measure(model, *weights, bandwidth, rate, (sequences, 4, 1024), sampling, options.acceptance)
        for sequences in (16, 64)
        for sampling in ("temperature 1", "top-p 0.9")
    ]
    alone = {(r.sequences, r.context): r.committed_per_second for r in rows if r.drafted == 0}
    precision = "bf16" if options.weights == "model" else "int8 weights"
    title = (
        f"Qwen3-{options.shape} shape, {precision}, {torch.cuda.get_device_name()}, "
        f"copy {bandwidth / 1e9:.0f} GB/s, products {rate / 1e12:.0f} TFLOP/s"
    )
    for row in rows:
        row.gain = row.committed_per_second / alone.get((row.sequences, row.context), float("nan"))
    console.print(tabled(title, rows, digits=3))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps(
                {
                    "device": torch.cuda.get_device_name(),
                    "shape": options.shape,
                    "weights": options.weights,
                    "copy_bytes_per_second": bandwidth,
                    "product_operations_per_second": rate,
                    "acceptance": options.acceptance,
                    "rows": [asdict(row) for row in rows],
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
