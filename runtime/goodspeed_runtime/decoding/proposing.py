"""Draws draft tokens from a distribution that fits on the wire, exactly.

q is made first (the likeliest few tokens, as integer weights) and then sampled
from, never the other way round: a q that only resembles what the token was drawn
from would bend the output (docs/adr/0003-integer-weights.md). Any q is lossless,
so nothing here needs the whole vocabulary normalised.

What is drawn for a row depends on that row alone: its logits, its request, its place.
`draw`, `race` and `likeliest` keep to the device and to shapes that the host knows, so
they can be captured; `propose` and `propose_coupled` wrap them for one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    """Drafted tokens with their q, on the host: one per sequence, or several of one.

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

    @classmethod
    def of(cls, columns: npt.NDArray[np.int32]) -> Proposal:
        """Reads what `draw`, `race` or `likeliest` made, int32 ``[n, 2 + 2 * size]``, without a copy."""
        size = columns.shape[1] // 2 - 1
        weights = columns[:, 2 : size + 2]
        return cls(
            columns[:, 0],
            np.count_nonzero(weights, axis=1).astype(np.int32),
            columns[:, size + 2 :],
            weights,
            columns[:, 1:2].view(np.float32)[:, 0].astype(np.float64),
        )


@dataclass(frozen=True, slots=True)
class Manner:
    """How each row is to be drawn from, on its device.

    Attributes:
        temperature, top_p: float64 ``[n]``.
        widths: int64 ``[n]``, most tokens of the support.
        greedy: bool ``[n]``, whether the likeliest is taken; None where nobody's is.
    """

    temperature: Tensor
    top_p: Tensor
    widths: Tensor
    greedy: Tensor | None


def support_width(sampling: Sampling, size: int) -> int:
    """Tokens of a support of at most ``size``."""
    return 1 if sampling.greedy else min(sampling.top_k or size, size)


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
    if all(s.greedy for s in sampling):
        return _fetched(likeliest(logits, token_ids))
    noise = uniform([s.seed for s in sampling], positions, DRAFT, start=starts)
    manner, (on_device,) = _manner(logits, sampling, support_size, [noise])
    return _fetched(draw(logits, manner, on_device, support_size=support_size, token_ids=token_ids))


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
        return _fetched(likeliest(logits, token_ids))
    manner, _ = _manner(logits, sampling, support_size, [])
    seeds, places = to_device(
        [bits([s.seed for s in sampling]), np.asarray(positions, np.int64)], logits.device
    )
    return _fetched(race(logits, manner, seeds, places, support_size=support_size, token_ids=token_ids))


def draw(
    logits: Tensor, manner: Manner, noise: Tensor, *, support_size: int, token_ids: Tensor | None
) -> Tensor:
    """What `propose` does, on the device.

    Args:
        logits: float32 ``[n, columns]``.
        manner: of each row.
        noise: float64 ``[n]``, uniform in [0, 1).
        support_size: most tokens in a support.
        token_ids: as for `propose`.

    Returns:
        int32 ``[n, 2 + 2 * size]``: the token, its confidence's float32 bits, the weights, their ids.
    """
    ids, relative = _relative(logits, manner, support_size, token_ids)
    weights = (relative * WEIGHT_LIMIT).round_().long()
    cumulative = weights.cumsum(1)
    total = cumulative[:, -1:]
    goal = (noise[:, None] * total).floor_().long()
    place = torch.searchsorted(cumulative, goal, right=True).clamp_max_(ids.shape[1] - 1)
    tokens, confidence = ids.gather(1, place), weights[:, :1] / total.clamp_min(1)
    if manner.greedy is not None:
        tokens, confidence = _or_likeliest(logits, manner.greedy, tokens, confidence, token_ids)
        weights = weights.masked_fill(manner.greedy[:, None], 0)
    return _columns(tokens, confidence, weights, ids)


def race(
    logits: Tensor,
    manner: Manner,
    seeds: Tensor,
    positions: Tensor,
    *,
    support_size: int,
    token_ids: Tensor | None,
) -> Tensor:
    """What `propose_coupled` does, on the device.

    Args:
        logits: float32 ``[n, columns]``.
        manner: of each row.
        seeds: int64 ``[n]``, the bits of the uint64.
        positions: int64 ``[n]``.
        support_size: most tokens in the race.
        token_ids: as for `propose_coupled`.

    Returns:
        int32 ``[n, 2]``: the token, and its confidence's float32 bits.
    """
    ids, relative = _relative(logits, manner, support_size, token_ids)
    times = relative / exponentials(seeds[:, None], positions[:, None], ids)
    tokens = ids.gather(1, times.argmax(1, keepdim=True))
    confidence = (relative[:, :1] / relative.sum(1, keepdim=True)).nan_to_num(0.0)
    if manner.greedy is not None:
        tokens, confidence = _or_likeliest(logits, manner.greedy, tokens, confidence, token_ids)
    return _columns(tokens, confidence)


def likeliest(logits: Tensor, token_ids: Tensor | None) -> Tensor:
    """The first of the likeliest tokens of each row, as `race` gives it."""
    return _columns(*_likeliest(logits, token_ids))


def _likeliest(logits: Tensor, token_ids: Tensor | None) -> tuple[Tensor, Tensor]:
    best = logits.max(dim=1, keepdim=True)
    ids = best.indices if token_ids is None else token_ids[best.indices]
    return ids, (1 / (logits - best.values).exp().sum(1, keepdim=True)).nan_to_num(0.0)


def _or_likeliest(
    logits: Tensor, greedy: Tensor, tokens: Tensor, confidence: Tensor, token_ids: Tensor | None
) -> tuple[Tensor, Tensor]:
    # Not the support's first: who shares the batch must not decide between two that are equally likely.
    best, share = _likeliest(logits, token_ids)
    chosen = greedy[:, None]
    return torch.where(chosen, best, tokens), torch.where(chosen, share.to(confidence.dtype), confidence)


def _columns(tokens: Tensor, confidence: Tensor, *others: Tensor) -> Tensor:
    known = confidence.float().view(torch.int32)
    return torch.cat([tokens.int(), known, *(other.int() for other in others)], dim=1)


def _fetched(columns: Tensor) -> Proposal:
    return Proposal.of(columns.cpu().numpy())


def _manner(
    logits: Tensor, sampling: Sequence[Sampling], support_size: int, others: list[npt.NDArray[Any]]
) -> tuple[Manner, tuple[Tensor, ...]]:
    """How to draw, and other float64 columns that go to the device with it."""
    size = min(support_size, logits.shape[1])
    temperature, top_p, *rest = to_device(
        [
            np.array([s.temperature or 1.0 for s in sampling]),
            np.array([s.top_p for s in sampling]),
            *others,
        ],
        logits.device,
    )
    widths, greedy = to_device(
        [np.array([support_width(s, size) for s in sampling]), np.array([int(s.greedy) for s in sampling])],
        logits.device,
    )
    mixed = any(s.greedy for s in sampling)
    return Manner(temperature, top_p, widths, greedy != 0 if mixed else None), tuple(rest)


def _relative(
    logits: Tensor, manner: Manner, support_size: int, token_ids: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Ids and unnormalised probabilities ``[n, size]`` of each row's likeliest tokens, as requested.

    The likeliest has 1; tokens that top-k or top-p leave out have 0.
    """
    size = min(support_size, logits.shape[1])
    best, ids = logits.topk(size, dim=1)
    # A draft model gone wrong costs acceptance, never more: NaN weighs nothing.
    relative = ((best - best[:, :1]) / manner.temperature[:, None]).exp().nan_to_num_(0.0)
    relative.masked_fill_(torch.arange(size, device=logits.device) >= manner.widths[:, None], 0.0)
    share = relative / relative.sum(1, keepdim=True)
    relative.masked_fill_(share.cumsum(1) - share >= manner.top_p[:, None], 0.0)
    return ids if token_ids is None else token_ids[ids], relative
