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
    """

    tokens: npt.NDArray[np.int32]
    support_sizes: npt.NDArray[np.int32]
    support_ids: npt.NDArray[np.int32]
    support_weights: npt.NDArray[np.int32]


@torch.inference_mode()
def propose(
    logits: Tensor,
    sampling: Sequence[Sampling],
    positions: npt.ArrayLike,
    starts: npt.ArrayLike,
    *,
    support_size: int = 32,
) -> Proposal:
    """Draws one token per row from its truncated, quantised distribution.

    Temperature, top-k and top-p of the request shape q as they shape p, top-p
    within the support: that keeps acceptance high and correctness untouched.

    Args:
        logits: float32 ``[n, vocabulary]`` of the draft model.
        sampling: of each row's sequence.
        positions: ``[n]``, index in the sequence of the token to draw.
        starts: ``[n]``, index of the first token of the draft it belongs to.
        support_size: most tokens in a support.

    Returns:
        The proposal, by one copy from the device.
    """
    n = logits.shape[0]
    greedy = np.array([s.greedy for s in sampling])
    if greedy.all():
        tokens = logits.argmax(1).cpu().numpy().astype(np.int32)
        none = np.zeros((n, 0), dtype=np.int32)
        return Proposal(tokens, np.zeros(n, dtype=np.int32), none, none)
    size = min(support_size, logits.shape[1])
    likeliest, ids = logits.topk(size, dim=1)
    temperature, top_p, noise = to_device(
        [
            np.array([s.temperature or 1.0 for s in sampling]),
            np.array([s.top_p for s in sampling]),
            uniform([s.seed for s in sampling], positions, DRAFT, start=starts),
        ],
        logits.device,
    )
    widths = np.array([1 if s.greedy else min(s.top_k or size, size) for s in sampling])
    (kept,) = to_device([widths], logits.device)
    # A draft model gone wrong costs acceptance, never more: NaN weighs nothing.
    relative = ((likeliest - likeliest[:, :1]) / temperature[:, None]).exp().nan_to_num_(0.0)
    relative.masked_fill_(torch.arange(size, device=logits.device) >= kept[:, None], 0.0)
    share = relative / relative.sum(1, keepdim=True)
    relative.masked_fill_(share.cumsum(1) - share >= top_p[:, None], 0.0)
    weights = (relative * WEIGHT_LIMIT).round_().long()
    cumulative = weights.cumsum(1)
    goal = (noise[:, None] * cumulative[:, -1:]).floor_().long()
    chosen = ids.gather(1, torch.searchsorted(cumulative, goal, right=True).clamp_max_(size - 1))
    columns = torch.cat([chosen, weights, ids], dim=1).to(torch.int32).cpu().numpy()
    tokens, weights_h, ids_h = columns[:, 0], columns[:, 1 : size + 1], columns[:, size + 1 :]
    sizes = np.where(greedy, 0, np.count_nonzero(weights_h, axis=1)).astype(np.int32)
    return Proposal(tokens, sizes, ids_h, weights_h)
