"""Where a verdict ends a sequence: stop tokens, the limit of tokens, the context."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(slots=True)
class Commitment:
    """What of a verdict is committed.

    Attributes:
        accepted: drafted tokens committed.
        next_token: the token after them, None when the sequence ended before it.
        finish: why the sequence is over, None while it is not.
    """

    accepted: int
    next_token: int | None
    finish: FinishReason | None

    @property
    def count(self) -> int:
        """Tokens committed in all."""
        return self.accepted + (self.next_token is not None)


def commit(
    drafted: Sequence[int], accepted: int, next_token: int, *, stop_tokens: Collection[int], room: int
) -> Commitment:
    """Cuts a verdict at the first stop token or where the room ends, whichever comes first.

    A stop token is itself committed. A stop token on the last free place counts as "stop".

    Args:
        drafted: the drafted ids.
        accepted: how many of them stand.
        next_token: the correction or bonus.
        stop_tokens: ids that end the sequence.
        room: tokens that may still be committed, at least 1.

    Raises:
        ValueError: there is no room.
    """
    if room < 1:
        raise ValueError("the sequence is over: there is no room for another token")
    if stop_tokens:
        for index in range(min(accepted, room)):
            if int(drafted[index]) in stop_tokens:
                return Commitment(index + 1, None, "stop")
    if accepted >= room:
        return Commitment(room, None, "length")
    if next_token in stop_tokens:
        return Commitment(accepted, next_token, "stop")
    return Commitment(accepted, next_token, "length" if accepted + 1 == room else None)
