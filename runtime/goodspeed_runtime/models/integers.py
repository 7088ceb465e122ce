"""Matrices as their file stores them: small integers in groups of 32 with a scale and a minimum each.

The weight is ``scale * integer + minimum``. Converted models keep these beside their bfloat16 weights,
because a pass that reads the integers reads a quarter of the bytes, and the weights it multiplies by are the
file's own, where the bfloat16 ones have been rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

GROUP = 32
FILE = "integers.npz"


@dataclass(frozen=True, slots=True)
class Integers:
    """One matrix.

    Attributes:
        values: int8 ``[rows, columns]``; from 0 to 15 where there are minima.
        scales: float16 ``[rows, columns / 32]``.
        minima: the same, or None where they are zero.
    """

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float16]
    minima: npt.NDArray[np.float16] | None = None

    def weights(self) -> npt.NDArray[np.float32]:
        """float32 ``[rows, columns]``, each rounded once."""
        rows, columns = self.values.shape
        grouped = self.values.reshape(rows, -1, GROUP).astype(np.float32)
        grouped *= self.scales.astype(np.float32)[:, :, None]
        if self.minima is not None:
            grouped += self.minima.astype(np.float32)[:, :, None]
        return grouped.reshape(rows, columns)

    def rows(self, chosen: npt.NDArray[np.integer[Any]]) -> Integers:
        """Some of the rows, in the order given."""
        return Integers(
            self.values[chosen], self.scales[chosen], None if self.minima is None else self.minima[chosen]
        )


def of_rows(values: npt.NDArray[np.int8], scales: npt.NDArray[np.float16]) -> Integers:
    """From int8 rows with a scale each; ``columns`` is a multiple of 32."""
    groups = values.shape[1] // GROUP
    return Integers(values, np.repeat(scales[:, None], groups, axis=1))


def joined(parts: list[Integers]) -> Integers | None:
    """Matrices of equal width below each other; None where some have minima and some have none."""
    if len({part.minima is None for part in parts}) > 1:
        return None
    minima = [part.minima for part in parts if part.minima is not None]
    return Integers(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate(minima) if minima else None,
    )


def of_gguf(data: npt.NDArray[np.uint8], kind: str) -> Integers | None:
    """A GGUF tensor's blocks, ``[rows, bytes]`` as gguf reads them; None if neither Q4_1 nor Q8_0."""
    sizes = {"Q4_1": 20, "Q8_0": 34}
    if kind not in sizes:
        return None
    blocks = data.reshape(len(data), -1, sizes[kind])
    rows, groups = blocks.shape[:2]
    scales = np.ascontiguousarray(blocks[:, :, :2]).view(np.float16).reshape(rows, groups)
    if kind == "Q8_0":
        values = np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8).reshape(rows, -1)
        return Integers(values, scales)
    minima = np.ascontiguousarray(blocks[:, :, 2:4]).view(np.float16).reshape(rows, groups)
    packed = blocks[:, :, 4:]
    values = np.concatenate((packed & 15, packed >> 4), axis=2).astype(np.int8).reshape(rows, -1)
    return Integers(values, scales, minima)


def write_integers(file: Path, matrices: Mapping[str, Integers]) -> None:
    """One uncompressed file; values below 16 take half a byte."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, matrix in matrices.items():
        arrays[f"{name}.scales"] = matrix.scales
        if matrix.minima is None:
            arrays[f"{name}.values"] = matrix.values
        else:
            arrays[f"{name}.minima"] = matrix.minima
            arrays[f"{name}.nibbles"] = (matrix.values[:, ::2] | matrix.values[:, 1::2] << 4).view(np.uint8)
    with file.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def read_integers(file: Path, only: str | None = None) -> dict[str, Integers]:
    """What `write_integers` wrote, or one matrix of it.

    Raises:
        ValueError: something else is in the file.
    """
    found: dict[str, Integers] = {}
    with np.load(file, allow_pickle=False) as arrays:
        for key in arrays.files:
            name, _, part = key.rpartition(".")
            if part not in ("values", "nibbles") or only not in (None, name):
                continue
            if f"{name}.scales" not in arrays.files:
                raise ValueError(f"{file}: {name} has no scales")
            values, minima = arrays[key], None
            if part == "nibbles":
                packed, minima = values, arrays[f"{name}.minima"]
                values = np.empty((len(packed), 2 * packed.shape[1]), np.int8)
                values[:, ::2], values[:, 1::2] = packed & 15, packed >> 4
            found[name] = Integers(values, arrays[f"{name}.scales"], minima)
    return found
