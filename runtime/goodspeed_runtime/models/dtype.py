"""Which floating-point type a model runs in when nobody says, and what weights are rounded to."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

DType = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
Weights = Literal["model", "int8"]
"""Of linear layers: the model's own, or those rounded to int8 with a scale a row, which is another model."""

_FAST_BFLOAT16 = {"amx_bf16", "avx512_bf16"}


def cpu_dtype(flags: set[str]) -> Literal["float32", "bfloat16"]:
    """The faster type for a CPU with these flags.

    A pass is bound by the bytes of the weights, so half the bytes win wherever
    the processor multiplies bfloat16 itself; without that it converts each
    weight first and float32 wins.
    """
    return "bfloat16" if flags & _FAST_BFLOAT16 else "float32"


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """This machine's processor flags; empty where the kernel does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def choose_dtype(dtype: DType, device: str) -> Literal["float32", "bfloat16", "float16"]:
    """The type to run in on ``device`` ("cpu" or "cuda...")."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") else cpu_dtype(cpu_flags())


def fingerprint_with(weights: Weights, fingerprint: str) -> str:
    """The fingerprint of a model whose weights are rounded, given that of its files."""
    return fingerprint if weights == "model" else f"{fingerprint}-{weights}"
