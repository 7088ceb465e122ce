"""Matrix products of a few tokens at the bandwidth of the weights, on Hopper's copy engine and matrix units.

cuBLAS fills and drains the multiprocessors anew for each product, which costs a
tenth to a third of what a product of a verification pass takes. The kernel of
`product.cu` starts on its weights while its predecessor still runs and gives
every multiprocessor the same share. It is compiled by NVRTC when a model is
loaded; other cards and larger passes stay with cuBLAS.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

MOST_TOKENS = 96
"""Accumulators of more do not fit in the registers beside the largest block; arithmetic binds soon after."""
_STEP = 64
_GRAIN = 16
PATIENT = 48 * 1024
"""Bytes of weights under way in a block before the inputs exist: more would hold up a small predecessor."""
EAGER = 1 << 20
"""As many as there is room for: where the predecessor is a product too."""
_SHARED = 214 * 1024
"""Bytes of shared memory for stages and exchange; the rest lets the next kernel's programs in early."""
_MOST_STAGES = 12
_CLUSTER = 2
"""Blocks that work together. Not every card has room for as many clusters of four as multiprocessors / 4."""
_LEAST_ROWS, _MOST_ROWS, _MOST_GATED_ROWS = 64, 256, 320
_USUAL_TOKENS = 80
_LEAST_STEPS = 8
"""Steps of a block, at least: below that adding up costs more than another block saves."""
_MAP_BYTES, _MAP_ALIGNMENT = 128, 64
_COPY_ALIGNMENT = 16
_SOURCES = {torch.bfloat16: "bf16", torch.float16: "f16"}


@dataclass(frozen=True, slots=True)
class Division:
    """How a product is divided among blocks, one a multiprocessor; of the weights' shape alone.

    Attributes:
        rows: of the weights that a block multiplies by.
        split: parts of the depth.
        sharing: neighbours that fetch their inputs together.
        blocks: all of them.
    """

    rows: int
    split: int
    sharing: int
    blocks: int

    @classmethod
    def of(cls, width: int, depth: int, processors: int, *, gated: bool) -> Division:
        """Gives every multiprocessor as many bytes as any other, as nearly as rows allow.

        Args:
            width: rows of the weights.
            depth: columns of the weights.
            processors: multiprocessors of the card.
            gated: the depth must stay whole, since what follows is not linear.
        """
        steps = _up(depth, _STEP) // _STEP
        usable = processors // _CLUSTER * _CLUSTER
        limit = _MOST_GATED_ROWS if gated else _MOST_ROWS
        options = []
        for split in (1,) if gated or steps < 2 * _LEAST_STEPS else (1, 2):
            sharing = _CLUSTER // split
            tiles, waves = usable // split, 1
            while (rows := _up(max(_LEAST_ROWS, -(-width // (waves * tiles))), 16)) > limit:
                waves += 1
            blocks = _up(-(-width // rows), sharing) * split
            # What the busiest block moves: weights and inputs, and what it exchanges.
            cost = waves * ((rows + _USUAL_TOKENS) * depth // split + 2 * (split - 1) * rows * _USUAL_TOKENS)
            options.append((cost, cls(rows, split, sharing, blocks)))
        return min(options, key=lambda option: option[0])[1]


@cache
def _bindings_installed() -> bool:
    """They come with CUDA builds of torch."""
    try:
        return find_spec("cuda.bindings") is not None
    except ModuleNotFoundError:
        return False


def _up(value: int, grain: int) -> int:
    """The smallest multiple that is not smaller."""
    return -(-value // grain) * grain


def fits(weights: Tensor) -> bool:
    """Whether the streaming kernel can multiply by these weights on their device."""
    return (
        weights.is_cuda
        and _bindings_installed()
        and weights.dtype in _SOURCES
        and torch.cuda.get_device_capability(weights.device) == (9, 0)
        and weights.shape[0] % 16 == 0
        and weights.shape[1] % 8 == 0
        and weights.is_contiguous()
        and weights.data_ptr() % _COPY_ALIGNMENT == 0
    )


class Product:
    """One weight matrix and its inputs, described to the copy engine."""

    def __init__(self, weights: Tensor, inputs: Tensor, *, gated: bool = False, ahead: int = PATIENT) -> None:
        """Describes both matrices; they must stay where they are.

        Args:
            weights: ``[width, depth]``, such that `fits` is true.
            inputs: ``[most tokens, depth]`` of the same dtype, contiguous.
            gated: the first half of the rows is a gate for the second: silu(gate) * up comes out.
            ahead: bytes of weights that a block asks for at a time while it waits for its inputs.
        """
        device = weights.device
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        self._weights, self._inputs, self._gated, self._ahead = weights, inputs, gated, ahead
        width, depth = weights.shape
        self._division = Division.of(width, depth, processors, gated=gated)
        rows, pitch = self._division.rows, depth * weights.element_size()
        if gated:
            self._rows = _described(
                weights,
                (depth, 8, 2, width // 16),
                (pitch, width // 2 * pitch, 8 * pitch),
                (_STEP, 8, 2, rows // 16),
            )
        else:
            self._rows = _described(weights, (depth, width), (pitch,), (_STEP, rows))
        self._columns: dict[int, tuple[Any, int]] = {}

    def into(self, out: Tensor, tokens: int) -> None:
        """Launches inputs times transposed weights for the first ``tokens`` inputs.

        Args:
            out: ``[tokens, width]``, or ``[tokens, width / 2]`` if gated; contiguous, of the weights' dtype.
            tokens: at most `MOST_TOKENS`.
        """
        from cuda.bindings import driver

        padded = -(-tokens // _GRAIN) * _GRAIN
        division = self._division
        columns = self._columns.get(padded)
        if columns is None:
            count, depth = self._inputs.shape
            columns = self._columns[padded] = _described(
                self._inputs,
                (depth, count),
                (depth * self._inputs.element_size(),),
                (_STEP, padded // division.sharing),
            )
        function, shared, threads = _compiled(
            padded, _SOURCES[out.dtype], division, self._gated, self._ahead, self._weights.device.index
        )
        width, depth = self._weights.shape
        numbers = [
            ctypes.c_void_p(out.data_ptr()),
            *(ctypes.c_int(value) for value in (tokens, width, -(-depth // _STEP))),
        ]
        places = [self._rows[1], columns[1], *(ctypes.addressof(number) for number in numbers)]
        arguments = (ctypes.c_void_p * len(places))(*places)
        early = driver.CUlaunchAttribute()
        early.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        early.value.programmaticStreamSerializationAllowed = 1
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = division.blocks, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes = shared
        config.hStream = torch.cuda.current_stream(out.device).cuda_stream
        config.attrs, config.numAttrs = [early], 1
        _check(driver.cuLaunchKernelEx(config, function, ctypes.addressof(arguments), 0))


def _described(
    matrix: Tensor, sizes: Sequence[int], pitches: Sequence[int], box: Sequence[int]
) -> tuple[Any, int]:
    """A tensor map: who keeps it alive, and its address.

    Args:
        matrix: whose memory is described.
        sizes: elements of each dimension, innermost first.
        pitches: bytes from one index to the next, of all dimensions but the first.
        box: elements of each dimension that one copy takes.
    """
    from cuda.bindings import driver

    kind = driver.CUtensorMapDataType
    form = {
        torch.bfloat16: kind.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        torch.float16: kind.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
    }[matrix.dtype]
    # The bindings' own object lies at any multiple of 16, the driver insists on 64.
    held = ctypes.create_string_buffer(_MAP_BYTES + _MAP_ALIGNMENT)
    place = -(-ctypes.addressof(held) // _MAP_ALIGNMENT) * _MAP_ALIGNMENT
    rank = len(sizes)
    words, longs = ctypes.c_uint32 * rank, ctypes.c_uint64 * rank
    error = ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled(
        ctypes.c_void_p(place),
        ctypes.c_int(form),
        ctypes.c_uint32(rank),
        ctypes.c_void_p(matrix.data_ptr()),
        longs(*sizes),
        longs(*pitches),
        words(*box),
        words(*[1] * rank),
        ctypes.c_int(driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE),
        ctypes.c_int(driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B),
        ctypes.c_int(driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B),
        ctypes.c_int(driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
    )
    _check((driver.CUresult(error), None))
    return held, place


@cache
def _compiled(
    tokens: int, source: str, division: Division, gated: bool, ahead: int, device: int
) -> tuple[Any, int, int]:
    """The kernel for a padded number of tokens, its bytes of shared memory and its threads."""
    from cuda.bindings import driver, nvrtc

    groups = -(-division.rows // 64)
    stage = (division.rows + tokens) * _STEP * 2
    exchange = (division.rows + 4 * division.split) * tokens * 4 if division.split > 1 else 0
    # Stages are aligned to 1,024 bytes; three barriers of 8 bytes for each follow.
    stages = min(_MOST_STAGES, (_SHARED - exchange - 1024) // (stage + 24))
    # The last 64 rows may be read beyond the last stage.
    shared = 1024 + stages * (stage + 24) + exchange + max(0, groups * 64 * _STEP * 2 - stage)
    macros = {
        "TOKENS": tokens,
        "ROWS": division.rows,
        "SPLIT": division.split,
        "SHARING": division.sharing,
        "STAGES": stages,
        "AHEAD": max(1, min(ahead // (division.rows * _STEP * 2), stages)),
        "GATED": int(gated),
    }
    text = files(__package__).joinpath("product.cu").read_bytes()
    program = _check(
        nvrtc.nvrtcCreateProgram(
            text, b"product.cu", 1, [_multiply(tokens, source).encode()], [b"multiply.h"]
        )
    )
    options = [
        b"--gpu-architecture=sm_90a",
        *(f"-D{name}={value}".encode() for name, value in macros.items()),
    ]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytearray(_check(nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"product.cu does not compile with {macros}: {log.decode()}")
    binary = bytearray(_check(nvrtc.nvrtcGetCUBINSize(program)))
    _check(nvrtc.nvrtcGetCUBIN(program, binary))
    with torch.cuda.device(device):
        module = _check(driver.cuModuleLoadData(bytes(binary)))
        function = _check(driver.cuModuleGetFunction(module, b"product"))
        _check(
            driver.cuFuncSetAttribute(
                function,
                driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared,
            )
        )
    return function, shared, groups * 128 + 64


def _multiply(tokens: int, source: str) -> str:
    """C for what depends on the number of tokens and the element type.

    `multiply` is 64 rows by ``tokens`` by 16 in the accumulators of a group of warps,
    `finish` waits until they are there, `narrow` and `rounded` convert from and to float.
    """
    count = tokens // 2
    registers = ", ".join(f"%{i}" for i in range(count))
    sums = ", ".join(f'"+f"(sums[{i}])' for i in range(count))
    return f"""
__device__ __forceinline__ void multiply(float (&sums)[{count}], u64 rows, u64 columns, bool keep) {{
    asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{count + 2}, 0;"
        " wgmma.mma_async.sync.aligned.m64n{tokens}k16.f32.{source}.{source}"
        " {{{registers}}}, %{count}, %{count + 1}, p, 1, 1, 0, 0; }}"
        : {sums} : "l"(rows), "l"(columns), "r"((int)keep));
}}
__device__ __forceinline__ void finish(float (&sums)[{count}]) {{
    asm volatile("wgmma.wait_group.sync.aligned 0;" : {sums} :: "memory");
}}
__device__ __forceinline__ u16 narrow(float value) {{
    u16 bits;
    asm("cvt.rn.{source}.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}}
__device__ __forceinline__ float rounded(u16 bits) {{
    float value;
    asm("cvt.f32.{source} %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}}
"""


def _check(answer: tuple[Any, ...]) -> Any:
    """The result of a call of CUDA's bindings.

    Raises:
        RuntimeError: with the name of the error.
    """
    if int(answer[0]):
        raise RuntimeError(f"CUDA refused a call of the streaming product: {answer[0].name}")
    return answer[1] if len(answer) == 2 else answer[1:]
