"""The lossless test: which drafted tokens stand, and which token follows them.

Whatever was drafted, the committed tokens are distributed as if the target had
sampled alone (paper Algorithm 1; Leviathan et al. 2023, "Fast inference from
transformers via speculative decoding"). That needs q to be exactly what the
drafter drew from, hence the integer weights (docs/adr/0003-integer-weights.md),
and noise independent of the drafter's (`noise`). Committing stop tokens and
limits is `commitment`'s concern.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.filtering import probabilities
from goodspeed_runtime.decoding.noise import ACCEPT, CHOOSE, uniform
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.transfer import to_device


class Draft(Protocol):
    """Drafted tokens and their q, as integer columns (the wire's `DraftBlock` is one).

    ``q_j(id) = weight / sum of the weights of j``; a support of size 0 is a point mass.
    """

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """``[n]``, inside the vocabulary."""

    @property
    def support_sizes(self) -> npt.NDArray[np.int32]:
        """``[n]``."""

    @property
    def support_ids(self) -> npt.NDArray[np.int32]:
        """``[sum of sizes]``, inside the vocabulary, no id twice in one support."""

    @property
    def support_weights(self) -> npt.NDArray[np.int32]:
        """``[sum of sizes]``, positive."""


@dataclass(slots=True)
class Request:
    """One sequence's draft to be verified.

    Attributes:
        position: index in the sequence of the first drafted token, or of the
            token to be sampled when the draft is empty.
        draft: may be empty, which samples one token.
        sampling: of the sequence.
    """

    position: int
    draft: Draft
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What came of each request.

    Attributes:
        accepted: int64 ``[n]``, how many drafted tokens stand.
        next_tokens: int64 ``[n]``, the correction or bonus after them; -1 when the
            target's logits there were not finite, and the sequence cannot go on.
        soft_ratios: float64 ``[n]``, sum over *all* drafted positions of min(1, p/q),
            the paper's acceptance estimate before it is averaged (section III).
    """

    accepted: npt.NDArray[np.int64]
    next_tokens: npt.NDArray[np.int64]
    soft_ratios: npt.NDArray[np.float64]


def nothing() -> None:
    """What the host does while a device computes, where it has nothing to do."""


@torch.inference_mode()
def verify(
    logits: Tensor, requests: Sequence[Request], *, meanwhile: Callable[[], None] = nothing
) -> Verdicts:
    """Tests all drafts of a round at once.

    Args:
        logits: float32 ``[sum of (draft length + 1), vocabulary]``: for each request the
            target's logits for its drafted positions and for the one after them.
        requests: in the order of the logits.
        meanwhile: work for the host while a device computes; on a CPU it is done first.

    Returns:
        The verdicts, by one copy from the device.

    Raises:
        ValueError: the rows do not fit the requests.
    """
    counts = np.array([len(request.draft.tokens) for request in requests], dtype=np.int64)
    if logits.shape[0] != counts.sum() + counts.size:
        raise ValueError(
            f"{logits.shape[0]} rows of logits for {counts.sum()} draft tokens of {counts.size} requests"
        )
    if logits.is_cuda and requests:
        from goodspeed_runtime.decoding.fused.judging import judge

        return judge(logits, requests, meanwhile=meanwhile)
    meanwhile()
    return verify_by_parts(logits, requests)


def verify_by_parts(logits: Tensor, requests: Sequence[Request]) -> Verdicts:
    """`verify` in torch's own operations, on any device: the reference for the fused kernels."""
    counts = np.array([len(request.draft.tokens) for request in requests], dtype=np.int64)
    greedy = np.array([request.sampling.greedy for request in requests], dtype=bool)
    order: list[int] = []
    outcomes: list[Tensor] = []
    for members, judge in (
        (np.flatnonzero(greedy), _judge_greedy),
        (np.flatnonzero(~greedy), _judge_sampled),
    ):
        if members.size:
            rows = logits
            if members.size < counts.size:
                (chosen,) = to_device(
                    [np.flatnonzero(np.repeat(np.isin(np.arange(counts.size), members), counts + 1))],
                    logits.device,
                )
                rows = logits.index_select(0, chosen)
            outcomes.append(judge(rows, [requests[int(i)] for i in members], _Layout(counts[members])))
            order.extend(members.tolist())
    columns = np.empty((3, counts.size))
    if outcomes:
        columns[:, order] = torch.cat(outcomes, dim=1).cpu().numpy()
    return Verdicts(columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2])


class _Layout:
    """Where each request's drafted tokens and logits lie; int64 on the host.

    Attributes:
        counts, first_row, first_draft: ``[n]``.
        owner, offset, rows: ``[drafts]``: request, place in its draft, row of logits.
    """

    def __init__(self, counts: npt.NDArray[np.int64]) -> None:
        self.counts = counts
        self.first_draft = np.cumsum(counts) - counts
        self.first_row = self.first_draft + np.arange(counts.size)
        self.owner = np.repeat(np.arange(counts.size), counts)
        self.offset = np.arange(counts.sum()) - self.first_draft[self.owner]
        self.rows = self.first_row[self.owner] + self.offset

    def columns(self) -> list[npt.NDArray[np.int64]]:
        return [self.first_row, self.owner, self.offset, self.rows]


def _judge_greedy(logits: Tensor, requests: Sequence[Request], layout: _Layout) -> Tensor:
    """Accepts while the draft is the target's own choice. Returns float64 ``[3, n]``, see `_outcome`."""
    tokens = np.concatenate([request.draft.tokens for request in requests]).astype(np.int64)
    first_row, owner, offset, rows, drafted = to_device([*layout.columns(), tokens], logits.device)
    best = logits.max(dim=1)
    stands = best.indices[rows] == drafted
    accepted = _accepted(stands, owner, offset, layout)
    final = first_row + accepted
    chosen = torch.where(best.values[final].isfinite(), best.indices[final], -1)
    # p is 0 or 1 and q at most 1, so min(1, p/q) is p whatever was drafted from.
    return _outcome(accepted, chosen, stands.double(), owner)


def _judge_sampled(logits: Tensor, requests: Sequence[Request], layout: _Layout) -> Tensor:
    """Rejection sampling. Returns float64 ``[3, n]``, see `_outcome`."""
    sampling = [request.sampling for request in requests]
    repeats = layout.counts + 1
    target = probabilities(
        logits,
        np.repeat([s.temperature for s in sampling], repeats),
        np.repeat([s.top_k for s in sampling], repeats),
        np.repeat([s.top_p for s in sampling], repeats),
    )
    seeds = np.array([s.seed for s in sampling], dtype=np.uint64)
    starts = np.array([request.position for request in requests], dtype=np.int64)
    tokens = np.concatenate([request.draft.tokens for request in requests]).astype(np.int64)
    ids, weights = _dense_supports(requests, tokens)
    token_weight = (weights * (ids == tokens[:, None])).sum(1)
    total_weight = weights.sum(1)
    columns = [*layout.columns(), layout.counts, layout.first_draft, tokens, token_weight, total_weight]
    *indices, ids_t, weights_t = to_device([*columns, ids.ravel(), weights.ravel()], logits.device)
    first_row, owner, offset, rows, counts, first_draft, drafted, own, total = indices
    # Where a sequence stops is not known yet: draw the next token's number for every place it may stop at.
    places = np.arange(int(layout.counts.max()) + 1)
    accept_noise, choose_noise = to_device(
        [
            uniform(seeds[layout.owner], starts[layout.owner] + layout.offset, ACCEPT),
            uniform(seeds[:, None], starts[:, None] + places, CHOOSE).ravel(),
        ],
        logits.device,
    )

    p = target[rows, drafted].double()
    # r < p/q without dividing. r is in [0, 1): never true for p = 0, always for p >= q.
    stands = accept_noise * own < p * total
    accepted = _accepted(stands, owner, offset, layout)

    weights_left = target.index_select(0, first_row + accepted).double()
    rejected = accepted < counts
    if tokens.size:
        at = (first_draft + accepted).clamp_max_(tokens.size - 1)
        q = weights_t.view(ids.shape)[at].double() / total[at, None] * rejected[:, None]
        residual = weights_left.scatter_add(1, ids_t.view(ids.shape)[at], -q).clamp_min_(0)
        # All zero only if p and q agree to the last bit, where the residual's limit is p itself.
        empty = residual.sum(1, keepdim=True) == 0
        weights_left = torch.where(empty, weights_left, residual)
    chosen = _inverse_cdf(weights_left, choose_noise.view(-1, places.size).gather(1, accepted[:, None]))
    # A NaN behind a rejected token decides nothing, so it must not reach the estimates either.
    return _outcome(accepted, chosen, (p * total / own).nan_to_num_(0.0).clamp_max_(1.0), owner)


def _dense_supports(
    requests: Sequence[Request], tokens: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Supports as ``[drafts, widest]`` ids and weights, padded by weight 0; a point mass has weight 1."""
    sizes = np.concatenate([request.draft.support_sizes for request in requests]).astype(np.int64)
    ids, weights = np.zeros((2, sizes.size, max(1, int(sizes.max(initial=0)))), dtype=np.int64)
    filled = np.arange(ids.shape[1]) < sizes[:, None]
    ids[filled] = np.concatenate([request.draft.support_ids for request in requests])
    weights[filled] = np.concatenate([request.draft.support_weights for request in requests])
    points = sizes == 0
    ids[points, 0], weights[points, 0] = tokens[points], 1
    return ids, weights


def _accepted(stands: Tensor, owner: Tensor, offset: Tensor, layout: _Layout) -> Tensor:
    """Length of each request's leading run of tokens that stand, int64 ``[n]``."""
    table = stands.new_zeros((layout.counts.size, int(layout.counts.max()) + 1), dtype=torch.int64)
    table[owner, offset] = stands.long()
    return table.cumprod(1).sum(1)


def _inverse_cdf(weights: Tensor, noise: Tensor) -> Tensor:
    """Draws one index per row of non-negative float64 weights; -1 where they are not finite."""
    cumulative = weights.cumsum(1)
    total = cumulative[:, -1:]
    # The product may round up to the total itself, which no index lies above.
    goal = torch.minimum(noise * total, torch.nextafter(total, torch.zeros_like(total)))
    # The first index whose sum exceeds the goal has a weight above zero.
    index = torch.searchsorted(cumulative, goal, right=True)[:, 0]
    return torch.where(total[:, 0].isfinite(), index, -1)


def _outcome(accepted: Tensor, chosen: Tensor, ratios: Tensor, owner: Tensor) -> Tensor:
    """Stacks what leaves the device: accepted, next token and summed soft ratio, float64 ``[3, n]``."""
    soft = torch.zeros(accepted.shape[0], dtype=torch.float64, device=accepted.device).index_add_(
        0, owner, ratios
    )
    return torch.stack([accepted.double(), chosen.double(), soft])
