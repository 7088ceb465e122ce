"""Verifies all drafts of a round on the device: one array there, two or three launches, one array back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.fused import judging_kernels, racing_kernels, row_kernels
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.verification import Request, Verdicts, nothing

_BLOCK = 8192
_WARPS = 16
_STAGING = 2
"""Host arrays in turn: one may still be on its way to the device while the next is written."""
_REQUEST_COLUMNS, _DRAFT_COLUMNS = row_kernels.REQUEST_COLUMNS.value, 5


@torch.inference_mode()
def judge(
    logits: Tensor,
    requests: Sequence[Request],
    *,
    candidates: int = 0,
    meanwhile: Callable[[], None] = nothing,
) -> Verdicts:
    """`verification.verify`, or `coupling.verify_coupled`, for logits on a CUDA device.

    Waits for the device once, at the end. For one thread a device.

    Args:
        logits: float32 ``[sum of (draft length + 1), vocabulary]``, contiguous.
        requests: in the order of the logits, at least one.
        candidates: of a coupled race, how many tokens run one by one; 0 is rejection sampling.
        meanwhile: what the host does before it waits.

    Returns:
        The verdicts, by one copy from the device.
    """
    pending = launch(logits, requests, candidates=candidates)
    meanwhile()
    return pending.wait()


@dataclass(frozen=True, slots=True)
class Pending:
    """Verdicts on their way from the device.

    Attributes:
        columns: float64 ``[3, requests]`` in pinned memory, once they are there: accepted, next token, soft
            ratio. The next launch overwrites them.
        arrived: says when.
    """

    columns: Tensor
    arrived: torch.cuda.Event

    def wait(self) -> Verdicts:
        """Waits for the device."""
        self.arrived.synchronize()
        accepted, tokens, ratios = self.columns.numpy()
        return Verdicts(accepted.astype(np.int64), tokens.astype(np.int64), ratios.copy())


@torch.inference_mode()
def launch(logits: Tensor, requests: Sequence[Request], *, candidates: int = 0) -> Pending:
    """Starts what `judge` waits for."""
    rows, vocabulary = logits.shape
    board = _board(logits.device)
    columns, drafts, supports = board.write(requests, rows, with_supports=not candidates)
    count = len(requests)
    best, peaks, floors, masses, outcomes, host = board.results(rows, count)
    described = (best, peaks, floors, masses)
    shape = (vocabulary, _BLOCK)
    row_kernels.describe[(rows,)](logits, columns, count, *described, *shape, num_warps=_WARPS)
    if candidates:
        if not all(request.sampling.greedy for request in requests):
            racing_kernels.race[(rows,)](
                logits, columns, count, *described, *shape, candidates, num_warps=_WARPS
            )
        racing_kernels.settle[(count,)](columns, count, drafts, best, outcomes, num_warps=1)
    else:
        judging_kernels.judge[(count,)](
            logits, columns, count, drafts, supports, *described, outcomes, *shape, num_warps=_WARPS
        )
    host.copy_(outcomes, non_blocking=True)
    board.arrived.record()
    return Pending(host, board.arrived)


@dataclass(slots=True)
class _Board:
    """What travels and what comes out, held from round to round and grown when a round needs more."""

    device: torch.device
    turn: int = 0
    sent: Tensor | None = None
    staging: list[Tensor] = field(default_factory=list)
    copied: list[torch.cuda.Event] = field(default_factory=list)
    rows: int = 0
    described: tuple[Tensor, ...] = ()
    outcomes: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    arrived: torch.cuda.Event = field(default_factory=torch.cuda.Event)

    def write(
        self, requests: Sequence[Request], rows: int, *, with_supports: bool
    ) -> tuple[Tensor, int, int]:
        """Sends the columns that `row_kernels` describes; how many drafted tokens and ids they hold."""
        drafts = [request.draft for request in requests]
        count = len(requests)
        counts = np.array([len(draft.tokens) for draft in drafts])
        sizes = np.concatenate([draft.support_sizes for draft in drafts])
        supports = int(sizes.sum()) if with_supports else 0
        drafted = rows - count
        total = _REQUEST_COLUMNS * count + rows + _DRAFT_COLUMNS * drafted + 2 * supports
        host, sent = self._room(total)
        columns = host.numpy()
        first_draft = np.cumsum(counts) - counts
        every = np.arange(count)
        table = columns[: _REQUEST_COLUMNS * count].reshape(_REQUEST_COLUMNS, count)
        table[0] = first_draft + every
        table[1] = first_draft
        table[2] = counts
        table[3:8] = np.array([_words(request.sampling) for request in requests], dtype=np.int32).T
        table[8] = [request.position for request in requests]
        at = table.size
        columns[at : at + rows] = np.repeat(every, counts + 1)
        at += rows
        block = columns[at : at + _DRAFT_COLUMNS * drafted].reshape(_DRAFT_COLUMNS, drafted)
        block[0] = np.concatenate([draft.tokens for draft in drafts])
        block[1:3] = 1
        block[3:] = 0
        if supports:
            ids = np.concatenate([draft.support_ids for draft in drafts])
            weights = np.concatenate([draft.support_weights for draft in drafts])
            block[1], block[2] = _weights(block[0], sizes, ids, weights)
            block[3], block[4] = np.cumsum(sizes) - sizes, sizes
            columns[total - 2 * supports : total - supports] = ids
            columns[total - supports : total] = weights
        sent[:total].copy_(host[:total], non_blocking=True)
        self.copied[self.turn].record()
        return sent, drafted, supports

    def results(self, rows: int, requests: int) -> tuple[Tensor, ...]:
        """Arrays for what is known of each row, and for the verdicts, there and here."""
        if rows > self.rows:
            kinds = (torch.int32, torch.float32, torch.int64, torch.float64)
            self.rows = 2 * rows
            self.described = tuple(torch.empty(self.rows, dtype=k, device=self.device) for k in kinds)
        if requests not in self.outcomes:
            there = torch.empty(3, requests, dtype=torch.float64, device=self.device)
            self.outcomes[requests] = there, torch.empty(3, requests, dtype=torch.float64, pin_memory=True)
        return *self.described, *self.outcomes[requests]

    def _room(self, total: int) -> tuple[Tensor, Tensor]:
        if self.sent is None or self.sent.numel() < total:
            self.sent = torch.empty(2 * total, dtype=torch.int32, device=self.device)
            self.staging = [
                torch.empty(2 * total, dtype=torch.int32, pin_memory=True) for _ in range(_STAGING)
            ]
            self.copied = [torch.cuda.Event() for _ in range(_STAGING)]
        self.turn = (self.turn + 1) % _STAGING
        self.copied[self.turn].synchronize()
        return self.staging[self.turn], self.sent


@cache
def _board(device: torch.device) -> _Board:
    return _Board(device)


@lru_cache(maxsize=4096)
def _words(sampling: Sampling) -> tuple[int, ...]:
    """Temperature, top-k, top-p and both halves of the seed as int32 bits."""
    reals = np.array([sampling.temperature, sampling.top_p], dtype=np.float32).view(np.int32).tolist()
    halves = np.array([sampling.seed & 0xFFFFFFFF, sampling.seed >> 32], np.uint32).view(np.int32).tolist()
    return reals[0], sampling.top_k, reals[1], *halves


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
