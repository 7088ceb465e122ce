"""Lays out a ragged batch for kernels with a fixed grid: tokens, tiles and pairs.

A tile is up to `TILE` consecutive query tokens of one sequence, a pair is a tile
and one chunk of the context that it sees. Chunks lie at fixed positions, so how a
sequence is summed up does not depend on what else is in the pass. Four numbers a
segment and the tokens travel to the device, in one array; `layout_kernels` derives
the rest there. What it derives is written down here in NumPy, for its tests.
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

NUMBERS = 4
"""What describes a segment: its tokens, its start, its slot, the rows of logits wanted."""

Columns = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much a pass can hold, and where what it needs lies in flat int32 arrays.

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

    def sent(self) -> dict[str, slice]:
        """The places of what travels: ``segments`` (rows of `NUMBERS`) and ``token_ids``."""
        return _places({"segments": NUMBERS * self.segments, "token_ids": self.tokens})

    def derived(self) -> dict[str, slice]:
        """The places of what is derived from it."""
        return _places(
            dict.fromkeys(("positions", "rows"), self.tokens)
            | dict.fromkeys(("token_pair", "token_splits", "token_line"), self.tokens)
            | dict.fromkeys(("tile_slot", "tile_token", "tile_count", "tile_position"), self.tiles)
            | {"logit_rows": self.rows}
            | {"pair_tile": self.pairs, "pair_split": self.pairs, "pairs": 1}
        )


def _places(sizes: dict[str, int]) -> dict[str, slice]:
    places, at = {}, 0
    for name, size in sizes.items():
        places[name] = slice(at, at + size)
        at += size
    return places


def describe(
    segments: Sequence[Segment],
    token_ids: npt.NDArray[np.int64],
    padded_tokens: int,
    into: dict[str, Columns],
) -> None:
    """Writes what travels.

    Args:
        segments: as given to the model, checked.
        token_ids: of all of them in turn, ``[tokens]``.
        padded_tokens: tokens that the kernels run over.
        into: views of the array, by name (`Capacity.sent`).
    """
    numbers = into["segments"].reshape(-1, NUMBERS)
    count, total = len(segments), token_ids.size
    numbers[:count] = [(len(s.tokens), s.start, s.slot, s.logit_rows) for s in segments]
    numbers[count:] = 0
    into["token_ids"][:total] = token_ids
    into["token_ids"][total:padded_tokens] = 0


def lay_out(
    segments: Sequence[Segment], capacity: Capacity, padded_tokens: int, into: dict[str, Columns]
) -> int:
    """Fills the derived columns for one pass, as the kernel does.

    Args:
        segments: as given to the model, checked.
        capacity: of the arrays.
        padded_tokens: tokens that the kernels run over; those behind the last real one are
            padding that writes nothing and reads nothing.
        into: views of an array, by name (`Capacity.derived`).

    Returns:
        Rows of logits wanted.
    """
    counts, starts, slots, wanted = np.array(
        [(len(s.tokens), s.start, s.slot, s.logit_rows) for s in segments], dtype=np.int64
    ).T
    ends = np.cumsum(counts)
    first = ends - counts
    total = int(ends[-1])
    every = np.arange(counts.size)
    owner = np.repeat(every, counts)
    offset = np.arange(total) - first[owner]
    positions = starts[owner] + offset

    tiles = -(-counts // TILE)
    tile_first = np.cumsum(tiles) - tiles
    tile_owner = np.repeat(every, tiles)
    tile_offset = (np.arange(tile_owner.size) - tile_first[tile_owner]) * TILE
    tile_count = np.minimum(TILE, counts[tile_owner] - tile_offset)
    tile_position = starts[tile_owner] + tile_offset
    splits = (tile_position + tile_count - 1) // capacity.chunk + 1
    pair_first = np.cumsum(splits) - splits
    pairs = int(splits.sum())
    pair_tile = np.repeat(np.arange(splits.size), splits)
    token_tile = tile_first[owner] + offset // TILE

    into["positions"][:total] = positions
    into["rows"][:total] = slots[owner] * capacity.max_context + positions
    into["token_pair"][:total] = pair_first[token_tile]
    into["token_splits"][:total] = splits[token_tile]
    into["token_line"][:total] = offset % TILE
    padding = slice(total, padded_tokens)
    for name in ("positions", "token_pair", "token_splits", "token_line"):
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
    row_owner = np.repeat(every, wanted)
    row_offset = np.arange(rows) - (np.cumsum(wanted) - wanted)[row_owner]
    into["logit_rows"][:rows] = (ends - wanted)[row_owner] + row_offset
    return rows
