"""Matrices in oneDNN's own layout: half the time of plain ones where a pass has few rows.

A plain matrix is laid out anew in every product. One that is laid out once is read once,
and that is all that a small pass costs (docs/performance.md).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear

_ROWS = 16
"""What the layout is chosen for; larger products are no slower by it than with one of their own."""


class PrepackedLinear:
    """``x W^T + b`` with W laid out once.

    Attributes:
        width: of x.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Copies the weight.

        Args:
            weight: ``[out, in]``, on the CPU, of a dtype that `can_prepack`.
            bias: ``[out]``.
        """
        self.width = int(weight.shape[1])
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """``[rows, in]`` to ``[rows, out]``, same dtype."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return product


@cache
def can_prepack(dtype: torch.dtype) -> bool:
    """Whether this build of torch prepacks matrices of a dtype on this processor, and multiplies right."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((48, 32), (48,), (3, 32))
    )
    try:
        found = PrepackedLinear(weight, bias)(x)
    except (RuntimeError, AttributeError):
        return False
    expected = linear(x.float(), weight.float(), bias.float())
    return bool(torch.allclose(found.float(), expected, rtol=0.02, atol=0.1))
