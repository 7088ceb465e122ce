"""Draws draft tokens from a distribution that fits on the wire, exactly.

q is made first (the likeliest few tokens, as integer weights) and then sampled
from, never the other way round: a q that only resembles what the token was drawn
from would bend the output (docs/adr/0003-integer-weights.md). Any q is lossless,
so nothing here needs the whole vocabulary normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.coupling import bits, exponentials
from goodspeed_runtime.decoding.noise import DRAFT, uniform
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.transfer import to_device

WEIGHT_LIMIT = 65535
"""Weight of the likeliest token of a support; weights that round to 0 leave it."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One drafted token per sequence with its q, on the host.

    Attributes:
        tokens: int32 ``[n]``.
        support_sizes: int32 ``[n]``, 0 for a point mass.
        support_ids, support_weights: int32 ``[n, support_size]``; of row i the first
            ``support_sizes[i]`` columns count, likeliest first.
        confidence: float64 ``[n]``, the likeliest token's share: of q where one is drawn from, of the whole
            vocabulary at temperature 1 where the likeliest is taken.
    """

    tokens: npt.NDArray[np.int32]
    support_sizes: npt.NDArray[np.int32]
    support_ids: npt.NDArray[np.int32]
    support_weights: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float64]


@torch.inference_mode()
def propose(
    logits: Tensor,
    sampling: Sequence[Sampling],
    positions: npt.ArrayLike,
    starts: npt.ArrayLike,
    *,
    support_size: int = 32,
    token_ids: Tensor | None = None,
) -> Proposal:
    """Draws one token per row from its truncated, quantised distribution.

    Temperature, top-k and top-p of the request shape q as they shape p, top-p
    within the support: that keeps acceptance high and correctness untouched.

    Args:
        logits: float32 ``[n, columns]`` of the draft model.
        sampling: of each row's sequence.
        positions: ``[n]``, index in the sequence of the token to draw.
        starts: ``[n]``, index of the first token of the draft it belongs to.
        support_size: most tokens in a support.
        token_ids: int64 ``[columns]``, the id of each column; None where column i is id i.

    Returns:
        The proposal, by one copy from the device.
    """
    greedy = np.array([s.greedy for s in sampling])
    if greedy.all():
        return _likeliest(logits, token_ids)
    ids, relative = _relative(logits, sampling, support_size, token_ids)
    size = ids.shape[1]
    (noise,) = to_device([uniform([s.seed for s in sampling], positions, DRAFT, start=starts)], logits.device)
    weights = (relative * WEIGHT_LIMIT).round_().long()
    cumulative = weights.cumsum(1)
    goal = (noise[:, None] * cumulative[:, -1:]).floor_().long()
    chosen = ids.gather(1, torch.searchsorted(cumulative, goal, right=True).clamp_max_(size - 1))
    top = (WEIGHT_LIMIT * weights[:, :1] / cumulative[:, -1:].clamp_min(1)).long()
    columns = torch.cat([chosen, top, weights, ids], dim=1).to(torch.int32).cpu().numpy()
    tokens, confidence = columns[:, 0], columns[:, 1] / WEIGHT_LIMIT
    weights_h, ids_h = columns[:, 2 : size + 2], columns[:, size + 2 :]
    sizes = np.where(greedy, 0, np.count_nonzero(weights_h, axis=1)).astype(np.int32)
    return Proposal(tokens, sizes, ids_h, weights_h, confidence)


@torch.inference_mode()
def propose_coupled(
    logits: Tensor,
    sampling: Sequence[Sampling],
    positions: npt.ArrayLike,
    *,
    support_size: int = 32,
    token_ids: Tensor | None = None,
) -> Proposal:
    """The token of each row that wins the race among the draft model's likeliest (`coupling`).

    Args:
        logits: float32 ``[n, columns]`` of the draft model.
        sampling: of each row's sequence.
        positions: ``[n]``, index in the sequence of the token to draw.
        support_size: most tokens in the race.
        token_ids: int64 ``[columns]``, the id of each column; None where column i is id i.

    Returns:
        Point masses: the verifier needs no q.
    """
    if all(s.greedy for s in sampling):
        return _likeliest(logits, token_ids)
    ids, relative = _relative(logits, sampling, support_size, token_ids)
    seeds, places = to_device(
        [bits([s.seed for s in sampling]), np.asarray(positions, np.int64)], logits.device
    )
    race = relative.double() / exponentials(seeds[:, None], places[:, None], ids)
    chosen = ids.gather(1, race.argmax(1, keepdim=True)).double()
    share = relative[:, :1].double() / relative.sum(1, keepdim=True)
    tokens, confidence = torch.cat([chosen, share.nan_to_num(0.0)], dim=1).cpu().numpy().T
    return _points(tokens.astype(np.int32), confidence)


def _likeliest(logits: Tensor, token_ids: Tensor | None) -> Proposal:
    best = logits.max(dim=1)
    ids = best.indices if token_ids is None else token_ids[best.indices]
    share = 1 / (logits - best.values[:, None]).exp().sum(1)
    columns = torch.stack([ids.double(), share.double().nan_to_num(0.0)]).cpu().numpy()
    return _points(columns[0].astype(np.int32), columns[1])


def _points(tokens: npt.NDArray[np.int32], confidence: npt.NDArray[np.float64]) -> Proposal:
    none = np.zeros((len(tokens), 0), dtype=np.int32)
    return Proposal(tokens, np.zeros(len(tokens), dtype=np.int32), none, none, confidence)


def _relative(
    logits: Tensor, sampling: Sequence[Sampling], support_size: int, token_ids: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Ids and unnormalised probabilities ``[n, size]`` of each row's likeliest tokens, as requested.

    The likeliest has 1; tokens that top-k or top-p leave out have 0.
    """
    size = min(support_size, logits.shape[1])
    likeliest, ids = logits.topk(size, dim=1)
    temperature, top_p = to_device(
        [np.array([s.temperature or 1.0 for s in sampling]), np.array([s.top_p for s in sampling])],
        logits.device,
    )
    widths = np.array([1 if s.greedy else min(s.top_k or size, size) for s in sampling])
    (kept,) = to_device([widths], logits.device)
    # A draft model gone wrong costs acceptance, never more: NaN weighs nothing.
    relative = ((likeliest - likeliest[:, :1]) / temperature[:, None]).exp().nan_to_num_(0.0)
    relative.masked_fill_(torch.arange(size, device=logits.device) >= kept[:, None], 0.0)
    share = relative / relative.sum(1, keepdim=True)
    relative.masked_fill_(share.cumsum(1) - share >= top_p[:, None], 0.0)
    return ids if token_ids is None else token_ids[ids], relative
