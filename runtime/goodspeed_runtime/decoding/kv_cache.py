"""Holds keys and values of every sequence in preallocated slots.

A slot is a row of `max_context` token places in every layer. Nothing is copied
when drafted tokens are rejected: the length of the slot moves back and the next
pass overwrites what lies behind it (docs/adr/0002-kv-slots.md). What attention
does with the places is `round`'s concern, who gets a slot the server's.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps per token: key and value heads and their sizes."""

    heads: int
    key_size: int
    value_size: int


class KVCache:
    """Slots of keys and values on one device.

    Attributes:
        slots: number of slots.
        max_context: token places per slot.
        lengths: valid places per slot, on the host. Rollback is setting one.
        keys, values: per layer ``[slots, max_context, heads, size]``. A token's row is
            contiguous, so a pass writes each of its tokens with one copy.
    """

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        slots: int,
        max_context: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        if slots < 1 or max_context < 1:
            raise ValueError(f"slots ({slots}) and max_context ({max_context}) must be at least 1")
        self.slots = slots
        self.max_context = max_context
        self.lengths = [0] * slots

        # Zeros, not empty: a masked place still meets a weight of zero, and zero times NaN is NaN.
        def places(layer: LayerShape, size: int) -> Tensor:
            return torch.zeros(slots, max_context, layer.heads, size, dtype=dtype, device=device)

        self.keys = [places(layer, layer.key_size) for layer in layers]
        self.values = [places(layer, layer.value_size) for layer in layers]
        self._key_rows = [keys.flatten(0, 1) for keys in self.keys]
        self._value_rows = [values.flatten(0, 1) for values in self.values]
        self._free = list(range(slots))
        self._used = [False] * slots

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values take on the device."""
        return sum(places.nbytes for places in (*self.keys, *self.values))

    @property
    def free_slots(self) -> int:
        """Slots that `acquire` can still hand out."""
        return len(self._free)

    def acquire(self) -> int | None:
        """Takes the lowest free slot, which keeps the busy ones together; None when all are taken."""
        if not self._free:
            return None
        slot = heapq.heappop(self._free)
        self._used[slot] = True
        self.lengths[slot] = 0
        return slot

    def release(self, slot: int) -> None:
        """Gives a slot back.

        Raises:
            ValueError: the slot is not taken.
        """
        if not self._used[slot]:
            raise ValueError(f"slot {slot} is not taken")
        self._used[slot] = False
        self.lengths[slot] = 0
        heapq.heappush(self._free, slot)

    def scrub(self, slot: int) -> None:
        """Zeroes a slot in which a pass left infinities or NaN, which would reach its next owner."""
        for places in (*self.keys, *self.values):
            places[slot].zero_()

    def write(self, layer: int, rows: Tensor, key: Tensor, value: Tensor) -> None:
        """Stores new tokens of one layer.

        Args:
            layer: its index.
            rows: int64 ``[tokens]``, ``slot * max_context + position``.
            key: ``[tokens, heads, key size]``.
            value: ``[tokens, heads, value size]``.
        """
        self._key_rows[layer].index_copy_(0, rows, key)
        self._value_rows[layer].index_copy_(0, rows, value)
