"""Draws draft tokens from a distribution that fits on the wire, exactly.

q is made first (the likeliest few tokens, as integer weights) and then sampled
from, never the other way round: a q that only resembles what the token was drawn
from would bend the output (docs/adr/0003-integer-weights.md). Any q is lossless,
so nothing here needs the whole vocabulary normalised.

What is drawn for a row depends on that row alone: its logits, its request, its place.
`drawn` is the rule, in torch's own operations; on CUDA a kernel follows it (`fused.drawing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.coupling import bits, exponentials
from goodspeed_runtime.decoding.noise import DRAFT, uniform, uniform_tensor
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
        """Reads the columns that `drawn` describes, int32 ``[n, 2 + 2 * size]``, without a copy."""
        size = columns.shape[1] // 2 - 1
        tokens, confidence = columns[:, 0], columns.view(np.float32)[:, 1].astype(np.float64)
        if not size:
            none = np.zeros((len(columns), 0), np.int32)
            return cls(tokens, np.zeros(len(columns), np.int32), none, none, confidence)
        weights = columns[:, 2 : size + 2]
        sizes = np.count_nonzero(weights, axis=1).astype(np.int32)
        return cls(tokens, sizes, columns[:, size + 2 :], weights, confidence)


@dataclass(frozen=True, slots=True)
class Rule:
    """How a draft model's tokens are drawn, whoever asks.

    Attributes:
        support_size: most tokens in a support, or in a race.
        coupled: the winner of a race (`coupling`) is taken, and there is no q.
        token_ids: int64 ``[columns]``, the id of each column of the logits; None where column i is id i.
    """

    support_size: int
    coupled: bool = False
    token_ids: Tensor | None = None

    def width(self, columns: int, *, greedy: bool) -> int:
        """Numbers that `drawn` gives a row of so many logits."""
        return 2 if greedy or self.coupled else 2 + 2 * min(self.support_size, columns)


@dataclass(frozen=True, slots=True)
class Manner:
    """How each row is to be drawn from, on its device.

    Attributes:
        temperature, top_p: float64 ``[n]``; any temperature will do for greedy rows.
        widths: int64 ``[n]``, most tokens of the support.
        greedy: int64 ``[n]``, 1 where the likeliest is taken.
        seeds: int64 ``[n]``, the bits of the uint64.
        positions: int64 ``[n]``, index in the sequence of the token to draw, less ``step``.
        starts: int64 ``[n]``, index of the first token of the draft it belongs to.
        step: int64 ``[1]``.
    """

    temperature: Tensor
    top_p: Tensor
    widths: Tensor
    greedy: Tensor
    seeds: Tensor
    positions: Tensor
    starts: Tensor
    step: Tensor

    @staticmethod
    def numbers(
        sampling: Sequence[Sampling], positions: npt.ArrayLike, starts: npt.ArrayLike, size: int
    ) -> list[npt.NDArray[np.int64]]:
        """What the host knows of it: int64 ``[n]`` each, floats by their bits, for supports of ``size``."""
        return [
            np.array([s.temperature or 1.0 for s in sampling], np.float64).view(np.int64),
            np.array([s.top_p for s in sampling], np.float64).view(np.int64),
            np.array([1 if s.greedy else min(s.top_k or size, size) for s in sampling]),
            np.array([int(s.greedy) for s in sampling]),
            bits([s.seed for s in sampling]),
            np.asarray(positions, np.int64),
            np.asarray(starts, np.int64),
        ]

    @classmethod
    def of(cls, numbers: Sequence[Tensor], step: Tensor) -> Manner:
        """From `numbers` on the device."""
        temperature, top_p, widths, greedy, seeds, positions, starts = numbers
        reals = temperature.view(torch.float64), top_p.view(torch.float64)
        return cls(*reals, widths, greedy, seeds, positions, starts, step)

    def rows(self, count: int) -> Manner:
        """Of the first rows."""
        return Manner(
            self.temperature[:count],
            self.top_p[:count],
            self.widths[:count],
            self.greedy[:count],
            self.seeds[:count],
            self.positions[:count],
            self.starts[:count],
            self.step,
        )


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
    return _proposed(logits, sampling, positions, starts, Rule(support_size, False, token_ids))


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
    return _proposed(logits, sampling, positions, positions, Rule(support_size, True, token_ids))


def _proposed(
    logits: Tensor,
    sampling: Sequence[Sampling],
    positions: npt.ArrayLike,
    starts: npt.ArrayLike,
    rule: Rule,
) -> Proposal:
    count, columns = logits.shape
    greedy = all(s.greedy for s in sampling)
    if greedy and not logits.is_cuda:
        return Proposal.of(_columns(*_likeliest(logits, rule.token_ids)).numpy())
    numbers = Manner.numbers(sampling, positions, starts, min(rule.support_size, columns))
    *there, step = to_device([*numbers, np.zeros(1, np.int64)], logits.device)
    manner = Manner.of(there, step)
    if logits.is_cuda:
        from goodspeed_runtime.decoding.fused.drawing import draw

        width = rule.width(columns, greedy=greedy)
        into = torch.empty(1, count, width, dtype=torch.int32, device=logits.device)
        tokens = torch.empty(count, dtype=torch.int32, device=logits.device)
        draw(logits, manner, rule, into, tokens, greedy=greedy)
        return Proposal.of(into[0].cpu().numpy())
    noise = None
    if not rule.coupled:
        # The same numbers as `drawn` makes of the manner; NumPy makes a few of them sooner.
        noise = torch.from_numpy(uniform([s.seed for s in sampling], positions, DRAFT, start=starts))
    return Proposal.of(drawn(logits, manner, rule, noise).numpy())


def drawn(logits: Tensor, manner: Manner, rule: Rule, noise: Tensor | None = None) -> Tensor:
    """A token of each row, sampled or the likeliest.

    Args:
        logits: float32 ``[n, columns]``.
        manner: of each row.
        rule: of all.
        noise: float64 ``[n]``, uniform in [0, 1), where it is known already.

    Returns:
        int32 ``[n, 2 + 2 * size]``: the token, its confidence's float32 bits, then, unless the rule is
        coupled, the weights of its support and their ids.
    """
    ids, relative = _relative(logits, manner, rule)
    positions = manner.positions + manner.step
    others: tuple[Tensor, ...] = ()
    if rule.coupled:
        times = relative / exponentials(manner.seeds[:, None], positions[:, None], ids)
        tokens = ids.gather(1, times.argmax(1, keepdim=True))
        confidence = (relative[:, :1] / relative.sum(1, keepdim=True)).nan_to_num(0.0)
    else:
        if noise is None:
            noise = uniform_tensor(manner.seeds, positions, DRAFT, manner.starts)
        weights = (relative * WEIGHT_LIMIT).round_().long()
        cumulative = weights.cumsum(1)
        total = cumulative[:, -1:]
        goal = (noise[:, None] * total).floor_().long()
        place = torch.searchsorted(cumulative, goal, right=True).clamp_max_(ids.shape[1] - 1)
        tokens, confidence = ids.gather(1, place), weights[:, :1] / total.clamp_min(1)
        others = weights, ids
    columns = _columns(tokens, confidence, *others)
    greedy = manner.greedy.nonzero()[:, 0]
    if greedy.shape[0]:
        # Not the support's first: who shares the batch must not decide between two that are equally likely.
        columns[greedy, :2] = _columns(*_likeliest(logits[greedy], rule.token_ids))
        columns[greedy, 2:] = 0
    return columns


def _likeliest(logits: Tensor, token_ids: Tensor | None) -> tuple[Tensor, Tensor]:
    best = logits.max(dim=1, keepdim=True)
    ids = best.indices if token_ids is None else token_ids[best.indices]
    return ids, (1 / (logits - best.values).exp().sum(1, keepdim=True)).nan_to_num(0.0)


def _columns(tokens: Tensor, confidence: Tensor, *others: Tensor) -> Tensor:
    known = confidence.float().view(torch.int32)
    return torch.cat([tokens.int(), known, *(other.int() for other in others)], dim=1)


def _relative(logits: Tensor, manner: Manner, rule: Rule) -> tuple[Tensor, Tensor]:
    """Ids and unnormalised probabilities ``[n, size]`` of each row's likeliest tokens, as requested.

    The likeliest has 1; tokens that top-k or top-p leave out have 0.
    """
    size = min(rule.support_size, logits.shape[1])
    best, ids = logits.topk(size, dim=1)
    # A draft model gone wrong costs acceptance, never more: NaN weighs nothing.
    relative = ((best - best[:, :1]) / manner.temperature[:, None]).exp().nan_to_num_(0.0)
    relative.masked_fill_(torch.arange(size, device=logits.device) >= manner.widths[:, None], 0.0)
    share = relative / relative.sum(1, keepdim=True)
    relative.masked_fill_(share.cumsum(1) - share >= manner.top_p[:, None], 0.0)
    return ids if rule.token_ids is None else rule.token_ids[ids], relative
