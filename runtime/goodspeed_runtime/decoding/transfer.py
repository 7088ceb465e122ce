"""Moves many small host arrays to the device in one copy, which never waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_device(columns: Sequence[npt.NDArray[Any]], device: torch.device) -> tuple[Tensor, ...]:
    """Copies flat arrays of one dtype.

    Args:
        columns: arrays ``[n_i]`` of the same dtype, at least one.
        device: where to.

    Returns:
        As many tensors ``[n_i]``, views of one buffer.
    """
    buffer = torch.from_numpy(np.concatenate(columns))
    if device.type == "cuda":
        buffer = buffer.pin_memory().to(device, non_blocking=True)
    return torch.split(buffer, [column.size for column in columns])
