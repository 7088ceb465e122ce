"""Small drafters in half the space: int8 rows, each with a float16 scale.

A drafter may be wrong in any way without a word of the output changing, so
rounding its weights costs at most a little acceptance. Matrices are kept as
int8 with the scale of each row; vectors stay as they are.

    python -m goodspeed_runtime.models.quantise drafter.safetensors out.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

SCALE_SUFFIX = ".scale"

Arrays = dict[str, npt.NDArray[np.generic]]


def quantise(state: Arrays) -> Arrays:
    """Matrices ``[rows, columns]`` to int8 and a float16 scale ``[rows]``; vectors to float16."""
    out: Arrays = {}
    for name, weight in state.items():
        if weight.ndim != 2:
            out[name] = weight.astype(np.float16)
            continue
        rows = weight.astype(np.float32)
        scale = (np.abs(rows).max(axis=1) / 127).astype(np.float16)
        # Where float16 rounds the scale down, the largest value would not fit.
        scale = np.where(scale > 0, np.nextafter(scale, np.float16(np.inf)), np.float16(1)).astype(np.float16)
        out[name] = np.clip(np.rint(rows / scale.astype(np.float32)[:, None]), -127, 127).astype(np.int8)
        out[name + SCALE_SUFFIX] = scale
    return out


def dequantise(state: Arrays) -> dict[str, npt.NDArray[np.float32]]:
    """The float32 weights of a quantised state; the largest error of a row is half its scale."""
    return {
        name: (
            value.astype(np.float32) * state[name + SCALE_SUFFIX].astype(np.float32)[:, None]
            if value.dtype == np.int8
            else value.astype(np.float32)
        )
        for name, value in state.items()
        if not name.endswith(SCALE_SUFFIX)
    }


def quantise_file(source: Path, target: Path) -> None:
    """Quantises a safetensors file, keeping its metadata."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(source, "np") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        metadata = file.metadata() or {}
    save_file(quantise(state), target, metadata=metadata)


if __name__ == "__main__":
    quantise_file(Path(sys.argv[1]), Path(sys.argv[2]))
