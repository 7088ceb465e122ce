"""Weights rounded to int8: half the bytes of bfloat16 in every pass, and a target that differs a little.

Each row of a matrix has one scale, so that its largest weight is 127 or -127. Inputs
are not rounded. What is kept as it is: the embedding, of which a pass reads a few rows;
norms, which are small; the head, whose rounding would shift every logit of a row by its
own amount (docs/adr/0026-int8-weights.md has the loss of either).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 127


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix as integers and what each row of them is multiplied by.

    Attributes:
        values: int8 ``[rows, columns]`` in -127..127, contiguous.
        scales: float32 ``[rows]``, positive.
    """

    values: Tensor
    scales: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, matrix: Tensor) -> Int8Matrix:
        """Rounds a matrix ``[rows, columns]`` of any floating-point dtype, on its own device."""
        wide = matrix.float()
        scales = wide.abs().amax(1) / LARGEST
        scales = torch.where(scales > 0, scales, 1.0)
        values = (wide / scales[:, None]).round_().clamp_(-LARGEST, LARGEST).to(torch.int8)
        return cls(values, scales)

    def dequantised(self) -> Tensor:
        """Float32 ``[rows, columns]``; off by at most half the scale of a row."""
        return self.values.float() * self.scales[:, None]


def rounded_linears(module: Any) -> Iterator[nn.Linear]:
    """The linear layers whose weights are rounded: all but the head.

    Args:
        module: a transformers causal language model.
    """
    head = module.get_output_embeddings()
    return (part for part in module.modules() if isinstance(part, nn.Linear) and part is not head)


@torch.no_grad()
def round_in_place(module: Any) -> None:
    """Gives a model the values of its int8 weights in its own dtype, for layers that know no int8.

    The same target as one that multiplies by int8, up to the rounding of its dtype; no byte is saved.

    Args:
        module: a transformers causal language model.
    """
    for linear in rounded_linears(module):
        linear.weight.copy_(Int8Matrix.of(linear.weight).dequantised())
