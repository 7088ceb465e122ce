"""Draws on a CUDA device as `proposing.drawn` says, in two or three launches that can be captured."""

from __future__ import annotations

import triton
from torch import Tensor

from goodspeed_runtime.decoding.fused import drawing_kernels
from goodspeed_runtime.decoding.proposing import WEIGHT_LIMIT, Manner, Rule

_PART = 4096
"""Logits that one program looks at."""


def draw(logits: Tensor, manner: Manner, rule: Rule, into: Tensor, tokens: Tensor, *, greedy: bool) -> None:
    """Draws a token of each row; nothing waits for the device.

    Args:
        logits: float32 ``[n, columns]``, the columns of a row next to each other.
        manner: of each row.
        rule: of all.
        into: int32 ``[steps, n or more, Rule.width]``, contiguous; ``manner.step`` says where.
        tokens: int32 ``[n]`` or longer, for the tokens alone.
        greedy: whether all rows are.
    """
    count, columns = logits.shape
    parts = triton.cdiv(columns, _PART)
    peaks, masses = logits.new_empty(2, count, parts)
    places = tokens.new_empty(count, parts)
    drawing_kernels.summarise[(count, parts)](
        logits, logits.stride(0), manner.greedy, peaks, places, masses, columns, _PART, num_warps=8
    )
    size = min(rule.support_size, columns)
    # Nobody looks at these where all are greedy.
    best, ids = (peaks, manner.seeds) if greedy else logits.topk(size, dim=1)
    drawing_kernels.draw[(count,)](
        best,
        ids,
        peaks,
        places,
        masses,
        ids if rule.token_ids is None else rule.token_ids,
        manner.temperature,
        manner.top_p,
        manner.widths,
        manner.greedy,
        manner.seeds,
        manner.positions,
        manner.starts,
        manner.step,
        into,
        into.stride(0),
        tokens,
        parts,
        _block(parts),
        size,
        _block(size),
        into.shape[2],
        WEIGHT_LIMIT,
        rule.token_ids is not None,
        not greedy,
        rule.coupled,
        num_warps=1,
    )


def advance(step: Tensor, slots: Tensor, positions: Tensor, counts: Tensor, segments: Tensor) -> None:
    """Counts the token drawn last, and describes the step that feeds it (`bursts.Steps.segments`).

    Args:
        step: int64 ``[1]``, one less than the tokens drawn of every row; counts up.
        slots: int64 ``[rows]``.
        positions: int64 ``[rows]``, index of the first token drawn.
        counts: int64 ``[rows]``, tokens to be drawn.
        segments: int32 ``[rows, 4]``, contiguous, written.
    """
    rows = slots.shape[0]
    drawing_kernels.advance[(1,)](step, slots, positions, counts, segments, rows, _block(rows), num_warps=1)


def _block(count: int) -> int:
    # A warp has 32 lanes anyway.
    block: int = max(32, triton.next_power_of_2(count))
    return block
