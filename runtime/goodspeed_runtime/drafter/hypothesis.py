"""What an engine believes comes next in a sequence: tokens with their q, kept while verdicts confirm them.

Each was drawn from the q that it is sent with, after exactly the tokens before
it. It is a valid draft wherever the committed tokens are those before it, no
matter when it was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from goodspeed_runtime.protocol.wire import DraftBlock

Column = npt.NDArray[np.int32]
NONE: Column = np.empty(0, dtype=np.int32)


class Hypothesis:
    """Guessed tokens after the committed ones.

    Attributes:
        start: index of the first token that was guessed in this run; draws of other runs never share it.
        tokens: the guesses, the first of them right after what was committed.
        confidence: of each.
    """

    def __init__(self) -> None:
        self.start = 0
        self.tokens: list[int] = []
        self.confidence: list[float] = []
        self._ids: list[Column] = []
        self._weights: list[Column] = []
        self._position = 0

    def follow(self, committed: Sequence[int]) -> None:
        """Drops what was confirmed; everything, if something else was committed."""
        size = len(committed)
        done = size - self._position
        if 0 <= done < len(self.tokens) and self.tokens[:done] == list(committed[self._position :]):
            for column in (self.tokens, self.confidence, self._ids, self._weights):
                del column[:done]
        elif done or not self.tokens:
            for column in (self.tokens, self.confidence, self._ids, self._weights):
                column.clear()
            self.start = size
        self._position = size

    def add(self, token: int, confidence: float, ids: Column = NONE, weights: Column = NONE) -> None:
        """A further token, drawn from these weights; without any, q is a point mass."""
        self.tokens.append(token)
        self.confidence.append(confidence)
        self._ids.append(ids)
        self._weights.append(weights)

    def block(self, count: int) -> DraftBlock:
        """The first tokens as a draft."""
        return DraftBlock(
            np.asarray(self.tokens[:count], dtype=np.int32),
            np.asarray([len(ids) for ids in self._ids[:count]], dtype=np.int32),
            np.concatenate([NONE, *self._ids[:count]]),
            np.concatenate([NONE, *self._weights[:count]]),
        )
