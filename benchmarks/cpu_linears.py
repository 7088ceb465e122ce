"""All linear layers of one pass of SmolLM2's shape on one CPU thread, by each way that torch has.

    python benchmarks/cpu_linears.py [--json FILE]

Random weights; every layer has its own, so that they come from memory as in a real pass. The best of
several passes counts, by processor time, without the output head.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import linear

from goodspeed_runtime.decoding.cpu.linear import PrepackedLinear

LAYERS = 30
SHAPES = [(960, 576), (576, 576), (3072, 576), (576, 1536)]
ROWS = (1, 5, 16)
Multiply = Callable[[Tensor], Tensor]


def plain(weight: Tensor) -> Multiply:
    """`linear` on bfloat16."""
    return lambda x: linear(x, weight)


def prepacked(weight: Tensor) -> Multiply:
    """bfloat16 laid out once by oneDNN."""
    return PrepackedLinear(weight)


def int8_weights(weight: Tensor) -> Multiply:
    """int8 rows with a scale each, bfloat16 activations."""
    scale = weight.float().abs().amax(1) / 127
    rows = (weight / scale[:, None]).round().to(torch.int8)
    scales = scale.bfloat16()
    return lambda x: torch._weight_int8pack_mm(x, rows, scales)


def int4_weights(weight: Tensor) -> Multiply:
    """int4 in groups of 32 with scale and minimum, bfloat16 activations; random values, real work."""
    out, width = weight.shape
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
        torch.randint(16, (out, width), dtype=torch.int32), 1
    )
    scales = torch.randn(width // 32, out, 2).bfloat16()
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, 32, scales)


def int8_all(weight: Tensor) -> Multiply:
    """int8 rows and int8 activations; the activations' own rounding is left out."""
    scale = weight.float().abs().amax(1) / 127
    rows = (weight / scale[:, None]).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(rows, None)
    zeros = torch.zeros(len(rows), dtype=torch.int32)

    def multiply(x: Tensor) -> Tensor:
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 128, packed, scale, zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
        )
        return product

    return multiply


WAYS: dict[str, Callable[[Tensor], Multiply]] = {
    "linear": plain,
    "prepacked": prepacked,
    "int8 weights": int8_weights,
    "int4 weights": int4_weights,
    "int8 weights and activations": int8_all,
}


@torch.inference_mode()
def measure(way: str, rows: int) -> float:
    """Milliseconds of all layers."""
    layers = [
        (WAYS[way]((0.02 * torch.randn(out, width)).bfloat16()), width)
        for _ in range(LAYERS)
        for out, width in SHAPES
    ]
    inputs = {width: torch.randn(rows, width).bfloat16() for _, width in SHAPES}
    if way == "int8 weights and activations":
        inputs = {width: (20 * x + 128).clamp(0, 255).to(torch.uint8) for width, x in inputs.items()}
    best = float("inf")
    for _ in range(15):
        start = time.process_time()
        for multiply, width in layers:
            multiply(inputs[width])
        best = min(best, time.process_time() - start)
    return 1e3 * best


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="all linear layers of a pass, ms")
    for name in ("way", *(f"{rows} rows" for rows in ROWS)):
        table.add_column(name, justify="right")
    figures = {way: [measure(way, rows) for rows in ROWS] for way in WAYS}
    for way, times in figures.items():
        table.add_row(way, *(f"{ms:.1f}" for ms in times))
    Console().print(table)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"rows": ROWS, "milliseconds": figures}, indent=1))


if __name__ == "__main__":
    main()
