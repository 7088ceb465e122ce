"""Matrix products by int8 weights: half the bytes of a pass, on any card that Triton compiles for.

How a matrix is divided, and so what is added in which order, depends on its shape and the
card alone. Passes of a few tokens divide the depth among programs and add up afterwards;
in larger ones a program adds up by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from goodspeed_runtime.decoding.fused.weights import (
    DecoderWeights,
    LayerWeights,
    NotFusableError,
    give_up,
    take_apart,
)
from goodspeed_runtime.decoding.int8 import Int8Matrix

DTYPES = (torch.bfloat16, torch.float16)
"""Of inputs: what int8 becomes exactly, and a matrix unit multiplies."""
FEW_TOKENS = 96
"""Most tokens of a pass that is bound by the bytes of the weights."""
_ROWS, _STEP = 128, 128
"""Of a tile of weights; the kernels' own step."""
_USUAL_TOKENS = 80
_MOST_SPLIT = 8
_LEAST_STEPS = 4
"""Steps of a part of the depth, at least: below that adding up costs more than another program saves."""
_TILE_TOKENS = 128
_LARGE_TILE_BYTES = 160 * 1024
"""Of shared memory, for three stages of a tile of many tokens; two do with less."""
_FETCHED_STEPS = 2
"""Of each row of weights: what a program asks for before its inputs exist."""
_COLLECT_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a product is divided among programs.

    Attributes:
        rows: of the weights in a tile, gates and what they gate together.
        split: parts of the depth; the only one of these numbers that results depend on.
        warps: of a program.
        stages: of weights and inputs that are on their way.
    """

    rows: int = _ROWS
    split: int = 1
    warps: int = 4
    stages: int = 3

    @classmethod
    def of(cls, width: int, depth: int, processors: int, *, gated: bool) -> Tiling:
        """For few tokens: the multiprocessor with the most work has as little as may be.

        Args:
            width: rows of the weights.
            depth: columns of the weights.
            processors: multiprocessors of the card.
            gated: the depth must stay whole, since what follows is not linear.
        """
        tiles, steps = _divided(width, _ROWS), _divided(depth, _STEP)
        most = 1 if gated else max(1, min(_MOST_SPLIT, steps // _LEAST_STEPS))

        def cost(split: int) -> float:
            # Bytes: weights, bfloat16 inputs, and float32 sums that are written and read again.
            busiest = _divided(tiles * split, processors) * _divided(steps, split) * _STEP
            exchanged = 0 if split == 1 else 8 * split * width * _USUAL_TOKENS / processors
            return busiest * (_ROWS + 2 * _USUAL_TOKENS) + exchanged

        split = min(range(1, most + 1), key=cost)
        # Measured on an H100: the sums of two tiles fill the registers of four warps, those of one do not.
        return cls(split=split) if gated else cls(split=split, warps=8, stages=4)


def _divided(value: int, by: int) -> int:
    """Rounded up."""
    return -(-value // by)


def blocks(tokens: int) -> tuple[int, int]:
    """Two powers of two, the second maybe 0, that hold so many tokens together with the least padding.

    The matrix unit takes 16 at least. More than `FEW_TOKENS` are divided into tiles.
    """
    if tokens > FEW_TOKENS:
        return _TILE_TOKENS, 0
    padded = _divided(tokens, 16) * 16
    few = 1 << (padded.bit_length() - 1)
    return few, 1 << (padded - few - 1).bit_length() if padded > few else 0


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """An `Int8Matrix` as the kernels read it.

    Attributes:
        words: int32 ``[rows, columns / 4]``, contiguous, rows filled up with zeros to whole steps. Byte b of
            word w of a step is its column w + 32 b.
        scales: float32 ``[rows]``.
        depth: columns.
    """

    words: Tensor
    scales: Tensor
    depth: int

    @classmethod
    def of(cls, matrix: Int8Matrix) -> PackedMatrix:
        """Copies the values into the kernels' order."""
        rows, depth = matrix.values.shape
        steps = _divided(depth, _STEP)
        values = torch.nn.functional.pad(matrix.values, (0, steps * _STEP - depth))
        words = values.view(rows, steps, 4, _STEP // 4).transpose(2, 3).contiguous().view(torch.int32)
        return cls(words.view(rows, steps * _STEP // 4), matrix.scales, depth)


class Int8Product:
    """One int8 matrix and its inputs."""

    def __init__(
        self,
        matrix: PackedMatrix,
        inputs: Tensor,
        partial: Tensor,
        *,
        bias: Tensor | None = None,
        gated: bool = False,
        tiling: Tiling | None = None,
        early: bool = False,
    ) -> None:
        """Decides how the product is divided.

        Args:
            matrix: of ``width`` rows and ``depth`` columns.
            inputs: ``[most tokens, depth]``, contiguous, of one of `DTYPES`.
            partial: float32, `partial_size` of all that share it; no two products may run at once.
            bias: ``[width]``.
            gated: the first half of the rows is a gate for the second: silu(gate) * up comes out.
            tiling: without one, `Tiling.of` the shape.
            early: start while the kernel before still runs; its card must be of Hopper's kind or newer.
        """
        self._matrix, self._inputs, self._bias, self._gated = matrix, inputs, bias, gated
        self._partial, self._early = partial, early
        self._tiling = tiling or tiling_of(matrix, gated=gated)
        device, shared, hopper = matrix.words.device, 0, False
        if device.type == "cuda":
            properties: Any = torch.cuda.get_device_properties(device)
            shared = properties.shared_memory_per_block_optin
            hopper = torch.cuda.get_device_capability(device) >= (9, 0)
        stages = 3 if shared > _LARGE_TILE_BYTES else 2
        if stages == 2:
            self._tiling = replace(self._tiling, stages=min(self._tiling.stages, stages))
        # The same sums for many tokens, where arithmetic binds.
        self._large = replace(self._tiling, rows=_ROWS, warps=8, stages=stages)
        # Older cards do not subtract bfloat16.
        self._fast = hopper and inputs.dtype == torch.bfloat16
        words = _STEP // 4
        self._fetched = words * min(_FETCHED_STEPS, matrix.words.shape[1] // words // self._tiling.split)

    def into(self, out: Tensor, tokens: int) -> None:
        """Launches inputs times transposed weights, plus bias, for the first ``tokens`` inputs.

        Args:
            out: ``[tokens, width]``, or ``[tokens, width / 2]`` if gated; contiguous, of the inputs' dtype.
            tokens: any number of them.
        """
        # Triton comes with CUDA builds of torch only.
        from goodspeed_runtime.decoding.fused import int8_kernels

        width, depth = self._matrix.words.shape[0], self._matrix.depth
        few, more = blocks(tokens)
        large = tokens > FEW_TOKENS
        tiling = self._large if large else self._tiling
        apart = tiling.split > 1 and not large
        rows = tiling.rows // 2 if self._gated else tiling.rows
        options: dict[str, Any] = {"launch_pdl": True} if self._early else {}
        grid = (
            _divided(tokens, few + more),
            _divided(width // 2 if self._gated else width, rows),
            tiling.split if apart else 1,
        )
        bias = self._matrix.scales if self._bias is None else self._bias
        int8_kernels.multiply[grid](
            self._inputs,
            self._matrix.words,
            self._matrix.scales,
            bias,
            out,
            self._partial,
            tokens,
            width,
            depth,
            rows,
            tiling.split,
            few,
            more,
            apart,
            self._gated,
            self._bias is not None,
            self._fast,
            depth % _STEP == 0,
            tiling.stages,
            # Tiles of tokens read the same weights one soon after another.
            "" if large else "evict_first",
            0 if large else self._fetched,
            self._early,
            num_warps=tiling.warps,
            **options,
        )
        if apart:
            int8_kernels.collect[(tokens, _divided(width, _COLLECT_BLOCK))](
                self._partial,
                self._matrix.scales,
                bias,
                out,
                tokens,
                width,
                tiling.split,
                _COLLECT_BLOCK,
                self._bias is not None,
                self._early,
                num_warps=4,
                **options,
            )


def tiling_of(matrix: PackedMatrix, *, gated: bool) -> Tiling:
    """`Tiling.of` a matrix on its card."""
    device = matrix.words.device
    on_cuda = device.type == "cuda"
    processors = torch.cuda.get_device_properties(device).multi_processor_count if on_cuda else 4
    return Tiling.of(matrix.words.shape[0], matrix.depth, processors, gated=gated)


@dataclass(frozen=True, slots=True)
class Int8Layer:
    """The matrices of one layer, as `LayerWeights` names them."""

    query_key_value: PackedMatrix
    query_key_value_bias: Tensor | None
    output: PackedMatrix
    gate_up: PackedMatrix
    down: PackedMatrix

    @property
    def partial_size(self) -> int:
        """Float32 numbers that its products need for sums of parts."""
        return max(
            tiling_of(matrix, gated=matrix is self.gate_up).split * FEW_TOKENS * matrix.scales.numel()
            for matrix in (self.query_key_value, self.output, self.gate_up, self.down)
        )


def quantised(module: Any, positions: int) -> tuple[DecoderWeights, list[Int8Layer]]:
    """Takes a model apart and rounds its layers' matrices, one layer after the other.

    Args:
        module: as for `take_apart`. Its linear layers are empty afterwards, but for the head: it cannot be
            run any more.
        positions: as for `take_apart`.

    Returns:
        What is not rounded, with matrices of no rows in its layers, and the layers' int8 matrices.

    Raises:
        NotFusableError: as `take_apart` does, and for a dtype that is not among `DTYPES`. The module is
            untouched.
    """
    dtype = next(module.parameters()).dtype
    if dtype not in DTYPES:
        raise NotFusableError(f"int8 weights are multiplied by bfloat16 or float16, not by {dtype}")
    weights = take_apart(module, positions)
    layers, rest, rounded = list(weights.layers), [], []
    # Nothing else may hold a layer while the next one is rounded.
    weights = replace(weights, layers=())
    for part in module.model.layers:
        layer = layers.pop(0)
        rounded.append(_rounded(layer))
        rest.append(_emptied(layer))
        give_up(part)
    return replace(weights, layers=rest), rounded


def _packed(matrix: Tensor) -> PackedMatrix:
    return PackedMatrix.of(Int8Matrix.of(matrix))


def _rounded(layer: LayerWeights) -> Int8Layer:
    return Int8Layer(
        _packed(layer.query_key_value),
        layer.query_key_value_bias,
        _packed(layer.output),
        _packed(layer.gate_up),
        _packed(layer.down),
    )


def _emptied(layer: LayerWeights) -> LayerWeights:
    none = layer.output.new_empty(0)
    return replace(
        layer, query_key_value=none, query_key_value_bias=None, output=none, gate_up=none, down=none
    )


@dataclass(frozen=True, slots=True)
class Int8Products:
    """The products of one layer, for passes of any size."""

    query_key_value: Int8Product
    output: Int8Product
    gate_up: Int8Product
    down: Int8Product

    @classmethod
    def of(
        cls,
        layer: Int8Layer,
        normed: Tensor,
        attended: Tensor,
        gated: Tensor,
        partial: Tensor,
        *,
        early: bool,
    ) -> Int8Products:
        """Binds a layer's matrices to the buffers of their inputs."""
        return cls(
            Int8Product(layer.query_key_value, normed, partial, bias=layer.query_key_value_bias, early=early),
            Int8Product(layer.output, attended, partial, early=early),
            Int8Product(layer.gate_up, normed, partial, gated=True, early=early),
            Int8Product(layer.down, gated, partial, early=early),
        )


def partial_size(layers: Sequence[Int8Layer]) -> int:
    """Float32 numbers that the products of all layers need, one after the other."""
    return max(layer.partial_size for layer in layers)
