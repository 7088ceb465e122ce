"""Holds keys and values of every sequence in preallocated slots.

A slot is a row of `max_context` token places in every layer. Nothing is copied
when drafted tokens are rejected: the length of the slot moves back and the next
pass overwrites what lies behind it (docs/adr/0002-kv-slots.md). What a slot
holds is remembered after its release, so that a sequence that begins like one
before need not be computed from its start (docs/adr/0023-prefix-sharing.md).
What attention does with the places is `round`'s concern, who gets a slot the
server's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from goodspeed_runtime.decoding.prefixes import SHORTEST, Prefixes, Tokens


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
        lengths: valid places per slot, on the host; 0 for one that is free. Rollback is setting one.
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
        self._free = set(range(slots))
        self._prefixes = Prefixes(slots, max_context)
        # Of free slots: what is left in them, and when they were released.
        self._left: npt.NDArray[np.int64] = np.zeros(slots, np.int64)
        self._released = [0] * slots
        self._releases = 0

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values take on the device."""
        return sum(places.nbytes for places in (*self.keys, *self.values))

    @property
    def free_slots(self) -> int:
        """Slots that `acquire` can still hand out."""
        return len(self._free)

    def acquire(self, tokens: Tokens | None = None, scope: str | None = None) -> int | None:
        """Takes a slot: one that holds nothing and lies lowest, else the one that was released first.

        The longest beginning of ``tokens`` that some slot holds is there at once: the slot is one that
        held it, or it is copied from one. ``lengths[slot]`` says how many tokens that are.

        Args:
            tokens: int32 ``[n]``, to be fed first; None where nothing is to be shared.
            scope: only slots taken under the same one are shared; None shares nothing, now or later.

        Returns:
            The slot; None when all are taken.
        """
        if not self._free:
            return None
        slot = min(self._free, key=lambda free: (self._released[free] if self._left[free] else 0, free))
        shared = 0
        if tokens is not None and scope is not None:
            common = self._prefixes.common(tokens, scope, np.maximum(self._left, self.lengths))
            best = int(common.argmax())
            shared = int(common[best])
            mine = int(common[slot])
            if shared:
                last = max(self._free, key=lambda free: (int(common[free]), -int(self._left[free])))
                # One that holds as much is taken as it is, unless more would be lost there than is shared.
                if common[last] == shared and self._left[last] <= 2 * shared:
                    slot, mine = last, shared
                self.copy(best, slot, mine, shared)
        self._free.discard(slot)
        self._left[slot] = 0
        self._prefixes.begin(slot, scope)
        if shared and tokens is not None:
            self._prefixes.write(slot, 0, tokens[:shared])
        self.lengths[slot] = shared
        return slot

    def extend(self, slot: int, tokens: Tokens) -> int:
        """Copies into a taken slot what another one holds of its next tokens.

        Args:
            slot: taken with a scope.
            tokens: int32 ``[n]``, the slot's own and those to come.

        Returns:
            How many of the tokens the slot holds now.
        """
        held = self.lengths[slot]
        common = self._prefixes.common(
            tokens, self._prefixes.scope(slot), np.maximum(self._left, self.lengths)
        )
        best = int(common.argmax())
        shared = int(common[best])
        if shared >= held + SHORTEST:
            self.copy(best, slot, held, shared)
            self.wrote(slot, held, tokens[held:shared])
        return self.lengths[slot]

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Copies the keys and values of places ``[start, end)`` from slot to slot."""
        if start < end and source != target:
            places = (*self.keys, *self.values)
            torch._foreach_copy_(
                [each[target, start:end] for each in places], [each[source, start:end] for each in places]
            )

    def release(self, slot: int) -> None:
        """Gives a slot back; its valid places stay there to be shared until somebody else writes over them.

        Raises:
            ValueError: the slot is not taken.
        """
        if slot in self._free:
            raise ValueError(f"slot {slot} is not taken")
        self._free.add(slot)
        self._left[slot] = 0 if self._prefixes.scope(slot) is None else self.lengths[slot]
        self._releases += 1
        self._released[slot] = self._releases
        self.lengths[slot] = 0

    def scrub(self, slot: int) -> None:
        """Zeroes a slot in which a pass left infinities or NaN, which would reach its next owner."""
        for places in (*self.keys, *self.values):
            places[slot].zero_()
        self.lengths[slot] = 0
        self._left[slot] = 0

    def wrote(self, slot: int, start: int, tokens: Sequence[int] | npt.NDArray[np.integer]) -> None:
        """A pass has written keys and values of tokens from a place on; the slot ends with them."""
        self._prefixes.write(slot, start, tokens)
        self.lengths[slot] = start + len(tokens)

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
