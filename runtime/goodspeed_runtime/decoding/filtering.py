"""Turns logits into the distribution that a request asked for.

The one place that knows temperature, top-k and top-p: the target alone and the
verification of drafts call the same function, so there is nothing for them to
disagree about. The order is that of vLLM and transformers: temperature, top-k,
softmax, top-p, softmax again. Ties at a threshold all stay, which makes the
result a function of the values and not of how a device happens to sort.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.transfer import to_device

TEMPERATURE_FLOOR = float(np.finfo(np.float32).tiny)
"""Lower ones would become 0 in float32 and divide 0 by 0."""
NUCLEUS_CANDIDATES = 256
"""How many likeliest tokens are searched for the nucleus on the CPU before everything is sorted."""


def probabilities(
    logits: Tensor,
    temperature: npt.NDArray[np.float64],
    top_k: npt.NDArray[np.int64],
    top_p: npt.NDArray[np.float64],
) -> Tensor:
    """The distribution each row is sampled from.

    Args:
        logits: float32 ``[rows, vocabulary]``, on any device.
        temperature: ``[rows]``, on the host; 0 puts everything on the first largest logit.
        top_k: ``[rows]``; keeps every token at least as likely as the k-th likeliest, 0 keeps all.
        top_p: ``[rows]``; then keeps the likeliest tokens up to the first at which their sum
            reaches top_p, and whatever is as likely as that one; 1 keeps all.

    Returns:
        float32 ``[rows, vocabulary]``. A row with NaN or +inf among its logits is NaN, or
        arbitrary at temperature 0.
    """
    vocabulary = logits.shape[1]
    greedy = temperature == 0
    # The maximum goes first, so that no temperature, however small, overflows.
    scaled = logits - logits.amax(1, keepdim=True)
    scaled /= _column(np.where(greedy, 1.0, temperature).clip(min=TEMPERATURE_FLOOR), logits)
    filtered_k = np.flatnonzero((top_k > 0) & (top_k < vocabulary) & ~greedy)
    if filtered_k.size:
        rows, last = to_device([filtered_k, top_k[filtered_k] - 1], logits.device)
        likeliest = scaled[rows].topk(int(top_k[filtered_k].max()), dim=1).values
        threshold = likeliest.gather(1, last[:, None])
        scaled[rows] = scaled[rows].masked_fill(scaled[rows] < threshold, float("-inf"))
    result = scaled.softmax(1)
    filtered_p = np.flatnonzero((top_p < 1) & ~greedy)
    if filtered_p.size:
        (rows,) = to_device([filtered_p], logits.device)
        part = result[rows]
        threshold = _nucleus_threshold(part, _column(top_p[filtered_p], logits))
        part = part.masked_fill_(part < threshold, 0.0)
        result[rows] = part / part.sum(1, keepdim=True)
    if greedy.any():
        (rows,) = to_device([np.flatnonzero(greedy)], logits.device)
        result[rows] = torch.zeros_like(result[rows]).scatter_(1, logits[rows].argmax(1, keepdim=True), 1.0)
    return result


def _nucleus_threshold(rows: Tensor, top_p: Tensor) -> Tensor:
    """Smallest probability ``[rows, 1]`` that belongs to each row's nucleus."""
    # Sorting a whole vocabulary is slow on a CPU and rarely needed; looking whether it is would stall a GPU.
    if rows.device.type == "cpu" and rows.shape[1] > NUCLEUS_CANDIDATES:
        ordered = rows.topk(NUCLEUS_CANDIDATES, dim=1).values
        if bool((ordered.sum(1, keepdim=True, dtype=torch.float64) >= top_p.double()).all()):
            return _first_reaching(ordered, top_p)
    return _first_reaching(rows.sort(1, descending=True).values, top_p)


def _first_reaching(ordered: Tensor, top_p: Tensor) -> Tensor:
    below = ordered.cumsum(1, dtype=torch.float64) < top_p.double()
    index = below.sum(1, keepdim=True).clamp_max_(ordered.shape[1] - 1)
    return ordered.gather(1, index)


def _column(values: npt.NDArray[np.float64], like: Tensor) -> Tensor:
    return to_device([values.astype(np.float32)], like.device)[0][:, None]
