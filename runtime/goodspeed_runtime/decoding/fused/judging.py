"""Verifies all drafts of a round on the device: one array there, two launches, one array back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.fused import judging_kernels as kernels
from goodspeed_runtime.decoding.transfer import to_device
from goodspeed_runtime.decoding.verification import Request, Verdicts

_BLOCK = 8192
_WARPS = 16


@torch.inference_mode()
def judge(logits: Tensor, requests: Sequence[Request]) -> Verdicts:
    """`verification.verify` for logits on a CUDA device.

    Waits for the device once, at the end.

    Args:
        logits: float32 ``[sum of (draft length + 1), vocabulary]``, contiguous.
        requests: in the order of the logits, at least one.

    Returns:
        The verdicts, by one copy from the device.
    """
    result = launch(logits, requests).cpu().numpy()
    return Verdicts(result[0].astype(np.int64), result[1].astype(np.int64), result[2])


@torch.inference_mode()
def launch(logits: Tensor, requests: Sequence[Request]) -> Tensor:
    """Starts what `judge` waits for.

    Returns:
        float64 ``[3, requests]`` on the device, once it gets there: accepted, next token, soft ratio.
    """
    drafts = [request.draft for request in requests]
    sampling = [request.sampling for request in requests]
    tokens = np.concatenate([draft.tokens for draft in drafts])
    sizes = np.concatenate([draft.support_sizes for draft in drafts])
    ids = np.concatenate([draft.support_ids for draft in drafts])
    weights = np.concatenate([draft.support_weights for draft in drafts])
    counts = np.array([draft.tokens.size for draft in drafts])
    starts = np.cumsum(sizes) - sizes
    own, total = _weights(tokens, sizes, ids, weights)
    first_draft = np.cumsum(counts) - counts
    seeds = np.array([s.seed for s in sampling], dtype=np.uint64).view(np.int64)
    columns: list[npt.ArrayLike] = [
        np.repeat(np.arange(counts.size), counts + 1),
        first_draft + np.arange(counts.size),
        first_draft,
        counts,
        np.array([s.temperature for s in sampling], dtype=np.float32).view(np.int32),
        np.array([s.top_k for s in sampling]),
        np.array([s.top_p for s in sampling], dtype=np.float32).view(np.int32),
        (seeds & 0xFFFFFFFF).astype(np.uint32).view(np.int32),
        (seeds >> 32).astype(np.int32),
        np.array([request.position for request in requests]),
        *(tokens, own, total, starts, sizes, ids, weights),
    ]
    (
        row_request,
        first_rows,
        first_drafts,
        counts_d,
        temperatures,
        top_ks,
        top_ps,
        seeds_low,
        seeds_high,
        positions,
        *draft_columns,
    ) = to_device([np.asarray(column, dtype=np.int32) for column in columns], logits.device)
    temperatures, top_ps = temperatures.view(torch.float32), top_ps.view(torch.float32)
    rows, vocabulary = logits.shape
    best = torch.empty(rows, dtype=torch.int32, device=logits.device)
    peaks = torch.empty(rows, dtype=torch.float32, device=logits.device)
    floors = torch.empty(rows, dtype=torch.int64, device=logits.device)
    masses = torch.empty(rows, dtype=torch.float64, device=logits.device)
    outcomes = torch.empty(3, counts.size, dtype=torch.float64, device=logits.device)
    described = (best, peaks, floors, masses)
    kernels.describe[(rows,)](
        logits, row_request, temperatures, top_ks, top_ps, *described, vocabulary, _BLOCK, num_warps=_WARPS
    )
    kernels.judge[(counts.size,)](
        logits,
        first_rows,
        first_drafts,
        counts_d,
        temperatures,
        seeds_low,
        seeds_high,
        positions,
        *draft_columns,
        *described,
        outcomes,
        counts.size,
        vocabulary,
        _BLOCK,
        num_warps=_WARPS,
    )
    return outcomes


def _weights(
    tokens: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int32],
    ids: npt.NDArray[np.int32],
    weights: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each drafted token's own weight and its support's total, ``[drafts]``; 1 and 1 for a point mass."""
    owner = np.repeat(np.arange(sizes.size), sizes)
    total = np.bincount(owner, weights, minlength=sizes.size).astype(np.int64)
    own = np.bincount(owner, weights * (ids == tokens[owner]), minlength=sizes.size).astype(np.int64)
    points = sizes == 0
    return np.where(points, 1, own), np.where(points, 1, total)
