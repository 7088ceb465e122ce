"""Cuts a pass into tiles of always the same shape, so that a token's bits do not depend on who shares it.

A product picks its kernel, and with it the order of its sums, by its number of
rows. Where every product has the same number, a row gets the same bits whatever
is in the others (docs/adr/0025-batch-invariance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from goodspeed_runtime.decoding.round import Segment

TILE_ROWS = 16
"""Rows of every product on the paths that choose no kernels of their own."""


def tiles(segments: Sequence[Segment], rows: int) -> list[list[Segment]]:
    """Segments cut into passes of at most ``rows`` tokens, to be run in order.

    The rows of logits of all passes together are those of the segments, in their order.
    """
    passes: list[list[Segment]] = [[]]
    room = rows
    for segment in segments:
        count, at = len(segment.tokens), 0
        while at < count:
            if not room:
                passes.append([])
                room = rows
            end = min(count, at + room)
            wanted = max(0, end - max(at, count - segment.logit_rows))
            passes[-1].append(Segment(segment.slot, segment.start + at, segment.tokens[at:end], wanted))
            room -= end - at
            at = end
    return passes


def check_rows(
    work: Callable[[Tensor], Tensor], width: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Whether every row of a tile comes out the same where all rows that go in are.

    Args:
        work: ``[TILE_ROWS, width]`` to ``[TILE_ROWS, any]``.
        width: of its input.
        dtype: of its input.
        device: of its input.

    Raises:
        ValueError: a row's bits depend on where in the tile it stands.
    """
    row = torch.randn(1, width, generator=torch.Generator().manual_seed(width)).to(device, dtype)
    out = work(row.repeat(TILE_ROWS, 1))
    if not bool((out == out[:1]).all()):
        raise ValueError(
            f"batches cannot be made not to matter here: equal rows of a {dtype} tile of width {width} come "
            f"out different with {torch.get_num_threads()} threads; try one thread, or a power of two"
        )
