"""Noise that drafter and verifier share: both race the same exponentials, and nothing else need be sent.

Every token id has an exponential number of its own at every position of a
sequence, a pure function of (seed, position, id). Whoever samples takes the id
of the largest p(id)/e(id), which is a draw from p (the Gumbel-max trick by
another name). A draft token stands when it is the target's own choice, so the
output depends on target, prompt and seed alone (Daliri et al. 2024, "Coupling
without Communication and Drafter-Invariant Speculative Decoding").

The target's likeliest tokens race one by one. The others race as one, which
changes nothing of the distribution, for the smallest of exponentials is again
exponential, and saves the noise of a whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.filtering import probabilities
from goodspeed_runtime.decoding.noise import RACE, REST, WITHIN, uniform_tensor
from goodspeed_runtime.decoding.transfer import to_device
from goodspeed_runtime.decoding.verification import Request, Verdicts, nothing, verify

CANDIDATES = 64
"""Likeliest tokens that race one by one, and with them whatever is as likely as the last of them."""
_HALF_STEP = 2.0**-54


def exponentials(seeds: Tensor, positions: Tensor, ids: Tensor) -> Tensor:
    """The numbers of tokens, float64 of the shapes' broadcast, positive.

    Args:
        seeds: int64, holding the bits of the uint64.
        positions: int64, index in the sequence of the token to be drawn.
        ids: int64, token ids.
    """
    return -(uniform_tensor(seeds, positions, RACE, ids) + _HALF_STEP).log()


def bits(seeds: Sequence[int]) -> npt.NDArray[np.int64]:
    """Seeds of 64 bits as int64 ``[n]`` of the same bits."""
    return np.array(seeds, dtype=np.uint64).view(np.int64)


def choose(target: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """The winner of each row's race.

    Args:
        target: float32 ``[rows, vocabulary]``, probabilities.
        seeds: int64 ``[rows]``, as for `exponentials`.
        positions: int64 ``[rows]``.

    Returns:
        int64 ``[rows]``; -1 where the probabilities are not finite.
    """
    likeliest, ids = _candidates(target)
    race = likeliest.double() / exponentials(seeds[:, None], positions[:, None], ids)
    best = race.max(dim=1)
    chosen = ids.gather(1, best.indices[:, None])[:, 0]
    raced = torch.where(likeliest > 0, 0.0, target.gather(1, ids)).double()
    rest = target.double().scatter(1, ids, raced)
    left = rest.sum(1)
    zero = torch.zeros_like(positions)
    other = left / -(uniform_tensor(seeds, positions, REST, zero) + _HALF_STEP).log()
    ahead = other > best.values
    if bool(ahead.any()):
        rows = ahead.nonzero()[:, 0]
        cumulative = rest[rows].cumsum(1)
        goal = uniform_tensor(seeds[rows], positions[rows], WITHIN, zero[rows])[:, None] * cumulative[:, -1:]
        below = torch.nextafter(cumulative[:, -1:], torch.zeros_like(goal))
        chosen[rows] = torch.searchsorted(cumulative, torch.minimum(goal, below), right=True)[:, 0]
    return torch.where(best.values.isfinite() & left.isfinite(), chosen, -1)


def _candidates(target: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and ids of who races alone, likeliest first, ``[rows, most of them]``.

    Sorting breaks ties as it likes, on every device differently, so a tie at the edge is raced as a whole:
    rows are padded by tokens that weigh nothing here.
    """
    count = min(CANDIDATES, target.shape[1])
    likeliest, ids = target.topk(count, dim=1)
    edge = likeliest[:, -1:]
    if count < target.shape[1]:
        most = int(((target >= edge) & (edge > 0)).sum(1).amax())
        if most > count:
            likeliest, ids = target.topk(most, dim=1)
            likeliest = likeliest.masked_fill(likeliest < edge, 0.0)
    return likeliest, ids


@torch.inference_mode()
def verify_coupled(
    logits: Tensor, requests: Sequence[Request], *, meanwhile: Callable[[], None] = nothing
) -> Verdicts:
    """`verification.verify`, but a drafted token stands when it is the target's own choice.

    The soft ratio is then the accepted tokens and, at the first that falls, 0: those after it were drafted
    for another text and say nothing, so they count as the share of those before.
    """
    if all(request.sampling.greedy for request in requests):
        return verify(logits, requests, meanwhile=meanwhile)
    if logits.is_cuda:
        from goodspeed_runtime.decoding.fused.judging import judge

        return judge(logits, requests, candidates=CANDIDATES, meanwhile=meanwhile)
    meanwhile()
    return verify_coupled_by_parts(logits, requests)


def verify_coupled_by_parts(logits: Tensor, requests: Sequence[Request]) -> Verdicts:
    """`verify_coupled` in torch's own operations, on any device: the reference for the fused kernels."""
    counts = np.array([len(request.draft.tokens) for request in requests], dtype=np.int64)
    rows = counts + 1
    first = np.cumsum(rows) - rows
    owner = np.repeat(np.arange(counts.size), rows)
    offset = np.arange(rows.sum()) - first[owner]
    sampling = [request.sampling for request in requests]
    target = probabilities(
        logits,
        np.repeat([s.temperature for s in sampling], rows),
        np.repeat([s.top_k for s in sampling], rows),
        np.repeat([s.top_p for s in sampling], rows),
    )
    starts = np.array([request.position for request in requests], dtype=np.int64)
    seeds, positions = to_device(
        [bits([s.seed for s in sampling])[owner], starts[owner] + offset], logits.device
    )
    winners = choose(target, seeds, positions)
    # At temperature 0 a row is arbitrary, not NaN, where its logits are not finite.
    chosen = torch.where(logits.amax(1).isfinite(), winners, -1).cpu().numpy().astype(np.int64)
    drafted = np.concatenate([np.append(request.draft.tokens, -2) for request in requests])
    fell = np.flatnonzero(drafted != chosen)
    accepted = fell[np.searchsorted(fell, first)] - first
    tested = np.maximum(np.minimum(accepted + 1, counts), 1)
    return Verdicts(accepted, chosen[first + accepted], accepted * counts / tested)
