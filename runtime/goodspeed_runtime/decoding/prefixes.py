"""Which tokens each slot holds, and how many of them a new sequence begins with.

Tokens are compared, not hashes of them, so nothing is ever shared by accident.
Pure: what a slot's places hold on the device is `kv_cache`'s concern.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]

SHORTEST = 16
"""Fewer tokens are computed again: on a GPU that costs no more than the launches of a copy."""


class Prefixes:
    """Tokens by slot and place; four bytes each."""

    def __init__(self, slots: int, max_context: int) -> None:
        self._tokens = np.zeros((slots, max_context), np.int32)
        self._scopes: list[str | None] = [None] * slots

    def begin(self, slot: int, scope: str | None) -> None:
        """A slot has an owner; None is one that shares nothing."""
        self._scopes[slot] = scope

    def scope(self, slot: int) -> str | None:
        """Under which the slot was taken."""
        return self._scopes[slot]

    def write(self, slot: int, start: int, tokens: Sequence[int] | npt.NDArray[np.integer]) -> None:
        """The places of a slot from ``start`` on hold these tokens now."""
        self._tokens[slot, start : start + len(tokens)] = tokens

    def common(
        self, tokens: Tokens, scope: str | None, valid: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """How many tokens a sequence has in common with each slot from the start.

        Args:
            tokens: int32 ``[n]``, the sequence's.
            scope: only slots of the same are looked at; None finds nothing.
            valid: int64 ``[slots]``, how many places of each slot count.

        Returns:
            int64 ``[slots]``; 0 for fewer than `SHORTEST`.
        """
        common = np.zeros(len(valid), np.int64)
        count = min(len(tokens), self._tokens.shape[1])
        if count < SHORTEST or scope is None:
            return common
        slots = np.array([s for s, own in enumerate(self._scopes) if own == scope], dtype=np.int64)
        slots = slots[valid[slots] >= SHORTEST]
        slots = slots[(self._tokens[slots, :SHORTEST] == tokens[:SHORTEST]).all(1)]
        if len(slots):
            differs = self._tokens[slots, :count] != tokens[:count]
            same = np.where(differs.any(1), differs.argmax(1), count)
            common[slots] = np.minimum(same, valid[slots])
        return common
