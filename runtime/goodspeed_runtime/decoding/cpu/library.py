"""The compiled pass: shipped with an image, or compiled on first use by the system's compiler.

There is one library for each instruction set. `python -m goodspeed_runtime.decoding.cpu.library`
compiles all of them beside their sources, which is how an image gets them; elsewhere the one for this
processor is compiled into the cache folder, once, under a lock. Where neither is possible the caller runs
something else.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from goodspeed_runtime.models.dtype import cpu_flags
from goodspeed_runtime.models.folder import cache_folder

logger = logging.getLogger(__name__)

_SOURCES = Path(__file__).parent / "native"
_FLAGS = [
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-pthread",
    "-fvisibility=hidden",
]
# The image that runs a library need not have the compiler's own.
_STATIC = ["-static-libstdc++", "-static-libgcc"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]
VARIANTS: dict[str, tuple[list[str], set[str]]] = {
    "avx512_bf16": (
        [*_AVX512, "-mavx512bf16", "-mavx512vnni"],
        {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx512_vnni", "avx2", "fma", "f16c"},
    ),
    "avx512": (_AVX512, {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx2", "fma", "f16c"}),
    "avx2": (_AVX2, {"avx2", "fma", "f16c"}),
    "portable": ([], set()),
}
"""Per instruction set: what the compiler is told, what the processor must have; the first that fits."""

COMPILE_SECONDS = 300


class NoLibraryError(RuntimeError):
    """The pass is neither shipped nor can it be compiled here; the message says why."""


class Shape(ctypes.Structure):
    """``goodspeed_shape`` of decoder.h."""

    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                "layers",
                "hidden",
                "intermediate",
                "heads",
                "kv_heads",
                "head_size",
                "max_context",
                "bfloat",
            )
        ),
        ("epsilon", ctypes.c_float),
        ("scaling", ctypes.c_float),
        ("cosine", ctypes.c_void_p),
        ("sine", ctypes.c_void_p),
        ("embedding", ctypes.c_void_p),
    )


def runnable() -> list[str]:
    """The variants that this processor can run, best first."""
    flags = cpu_flags()
    return [name for name, (_, needed) in VARIANTS.items() if needed <= flags]


@cache
def load(variant: str | None = None) -> ctypes.CDLL:
    """The library for this processor, compiled if need be.

    Args:
        variant: another than the best that the processor can run.

    Raises:
        NoLibraryError: there is none and none can be made.
    """
    chosen = variant or runnable()[0]
    name = _file_name(chosen)
    shipped = _SOURCES / name
    path = shipped if shipped.is_file() else _compiled(chosen, cache_folder(None) / "native" / name)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NoLibraryError(f"{path} cannot be loaded: {error}") from error
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.goodspeed_create.restype = pointer
    library.goodspeed_create.argtypes = (ctypes.POINTER(Shape), number)
    library.goodspeed_destroy.restype, library.goodspeed_destroy.argtypes = None, (pointer,)
    library.goodspeed_matrix.argtypes = (pointer, *(number,) * 5, pointer, pointer, pointer)
    library.goodspeed_vector.argtypes = (pointer, number, number, pointer, number)
    library.goodspeed_cache.restype = None
    library.goodspeed_cache.argtypes = (pointer, number, pointer, pointer, number)
    library.goodspeed_forward.argtypes = (pointer, number, pointer, pointer, pointer)
    return library


def compile_all(folder: Path) -> list[Path]:
    """Compiles every variant that this machine's architecture has.

    Raises:
        NoLibraryError: no compiler, or one that fails.
    """
    x86 = platform.machine() in ("x86_64", "AMD64")
    return [_compile(name, folder / _file_name(name)) for name in VARIANTS if x86 or name == "portable"]


def _compiled(variant: str, path: Path) -> Path:
    from filelock import FileLock, Timeout

    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=COMPILE_SECONDS):
            return path if path.is_file() else _compile(variant, path)
    except (OSError, Timeout) as error:
        raise NoLibraryError(f"cannot write {path}: {error}") from error


def _compile(variant: str, path: Path) -> Path:
    compiler = next(_compilers(), None)
    if compiler is None:
        raise NoLibraryError("no C++ compiler here (CXX, c++, g++ or clang++)")
    logger.info("compiling the pass for %s with %s, once, into %s", variant, compiler, path.parent)
    draft = path.with_suffix(f".{os.getpid()}")
    command = [
        compiler,
        *_FLAGS,
        *VARIANTS[variant][0],
        str(_SOURCES / "decoder.cpp"),
        "-o",
        str(draft),
        *_STATIC,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
        if done.returncode:
            raise NoLibraryError(f"{compiler} failed: {done.stderr.strip()[-500:]}")
        draft.replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibraryError(f"{compiler} failed: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return path


def _compilers() -> Iterator[str]:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            yield found


@cache
def _file_name(variant: str) -> str:
    """Holds a digest of the sources and flags, so that a library is never older than they are."""
    digest = hashlib.sha256(" ".join([*_FLAGS, *VARIANTS[variant][0]]).encode())
    for source in sorted((*_SOURCES.glob("*.h"), *_SOURCES.glob("*.cpp"))):
        digest.update(source.read_bytes())
    return f"decoder-{variant}-{digest.hexdigest()[:12]}.so"


if __name__ == "__main__":
    for made in compile_all(Path(sys.argv[1]) if len(sys.argv) > 1 else _SOURCES):
        sys.stdout.write(f"{made}\n")
