"""Lays out a ragged batch for kernels with a fixed grid: tokens, tiles and pairs.

A tile is up to `TILE` consecutive query tokens of one sequence, a pair is a tile
and one chunk of the context that it sees. Chunks lie at fixed positions, so how a
sequence is summed up does not depend on what else is in the pass. Pure NumPy:
one host array out, which a single copy brings to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from goodspeed_runtime.decoding.round import Segment

TILE = 8
"""Query tokens of a tile: a draft of up to seven tokens reads its context once."""
SPLITS = 16
"""Most chunks of a context."""
SMALLEST_CHUNK = 512
"""Positions of a chunk, at least: shorter ones cost more in joining than they gain in parallelism."""

Columns = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much a pass can hold, and where each column lies in the array that travels.

    Attributes:
        tokens, rows, segments: most in one pass; rows are those of the logits.
        max_context: token places of a slot.
    """

    tokens: int
    rows: int
    segments: int
    max_context: int

    @property
    def chunk(self) -> int:
        """Positions of a chunk: a power of two that covers the context in at most `SPLITS`."""
        chunk = SMALLEST_CHUNK
        while chunk * SPLITS < self.max_context:
            chunk *= 2
        return chunk

    @property
    def tiles(self) -> int:
        """Most tiles of one pass: every segment may end in a tile that is not full."""
        return min(self.tokens, self.segments + self.tokens // TILE)

    @property
    def pairs(self) -> int:
        """Most pairs of one pass."""
        return self.tiles * -(-self.max_context // self.chunk)

    def spans(self) -> dict[str, slice]:
        """Each column's place in the flat int32 array."""
        sizes = (
            dict.fromkeys(("token_ids", "positions", "rows"), self.tokens)
            | dict.fromkeys(("token_pair", "token_splits", "token_line"), self.tokens)
            | dict.fromkeys(("tile_slot", "tile_token", "tile_count", "tile_position"), self.tiles)
            | {"logit_rows": self.rows}
            | {"pair_tile": self.pairs, "pair_split": self.pairs, "pairs": 1}
        )
        spans, at = {}, 0
        for name, size in sizes.items():
            spans[name] = slice(at, at + size)
            at += size
        return spans


def lay_out(
    segments: Sequence[Segment], capacity: Capacity, padded_tokens: int, into: dict[str, Columns]
) -> int:
    """Fills the columns for one pass.

    Args:
        segments: as given to the model, checked.
        capacity: of the arrays.
        padded_tokens: tokens that the kernels run over; those behind the last real one are
            padding that writes nothing and reads nothing.
        into: views of the array that travels, by name (`Capacity.spans`).

    Returns:
        Rows of logits wanted.
    """
    counts = np.array([len(s.tokens) for s in segments])
    starts = np.array([s.start for s in segments])
    slots = np.array([s.slot for s in segments])
    wanted = np.array([s.logit_rows for s in segments])
    first = np.cumsum(counts) - counts
    total = int(counts.sum())
    owner = np.repeat(np.arange(counts.size), counts)
    offset = np.arange(total) - first[owner]
    positions = starts[owner] + offset

    tiles = -(-counts // TILE)
    tile_first = np.cumsum(tiles) - tiles
    tile_owner = np.repeat(np.arange(counts.size), tiles)
    tile_offset = (np.arange(tile_owner.size) - tile_first[tile_owner]) * TILE
    tile_count = np.minimum(TILE, counts[tile_owner] - tile_offset)
    tile_position = starts[tile_owner] + tile_offset
    splits = (tile_position + tile_count - 1) // capacity.chunk + 1
    pair_first = np.cumsum(splits) - splits
    pairs = int(splits.sum())
    pair_tile = np.repeat(np.arange(splits.size), splits)
    token_tile = tile_first[owner] + offset // TILE

    into["token_ids"][:total] = np.concatenate([np.asarray(s.tokens) for s in segments])
    into["positions"][:total] = positions
    into["rows"][:total] = slots[owner] * capacity.max_context + positions
    into["token_pair"][:total] = pair_first[token_tile]
    into["token_splits"][:total] = splits[token_tile]
    into["token_line"][:total] = offset % TILE
    padding = slice(total, padded_tokens)
    for name in ("token_ids", "positions", "token_pair", "token_splits", "token_line"):
        into[name][padding] = 0
    into["rows"][padding] = -1
    into["tile_slot"][: splits.size] = slots[tile_owner]
    into["tile_token"][: splits.size] = first[tile_owner] + tile_offset
    into["tile_count"][: splits.size] = tile_count
    into["tile_position"][: splits.size] = tile_position
    into["pair_tile"][:pairs] = pair_tile
    into["pair_split"][:pairs] = np.arange(pairs) - pair_first[pair_tile]
    into["pairs"][0] = pairs

    rows = int(wanted.sum())
    row_owner = np.repeat(np.arange(counts.size), wanted)
    row_offset = np.arange(rows) - (np.cumsum(wanted) - wanted)[row_owner]
    into["logit_rows"][:rows] = (first + counts - wanted)[row_owner] + row_offset
    return rows
