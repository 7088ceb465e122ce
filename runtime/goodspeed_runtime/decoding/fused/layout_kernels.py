"""Triton kernel that lays out a ragged batch on the device, as `schedule.lay_out` does on the host.

Between a verdict and the next pass the device waits for the host, so the host
writes four numbers a segment and the tokens, and the first launch of a pass
derives all else from them.
"""

# Triton's kernels read their arguments' types from the values, not from annotations.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _of(segment, owner, values):
    """The owner's value for each lane; 0 where no segment is the owner."""
    return tl.sum(tl.where(segment[None, :] == owner[:, None], values[None, :], 0), 1)


@triton.jit
def _owner(ends, index):
    """How many segments end at or before each index."""
    return tl.sum((ends[None, :] <= index[:, None]).to(tl.int32), 1)


@triton.jit
def _floors(count, PERIOD: tl.constexpr):
    """The sum of i // PERIOD over 0 <= i < count."""
    whole = count // PERIOD
    return PERIOD * (whole * (whole - 1) // 2) + whole * (count % PERIOD)


@triton.jit
def lay_out(
    segments,
    positions,
    rows,
    token_pair,
    token_splits,
    token_line,
    tile_slot,
    tile_token,
    tile_count,
    tile_position,
    logit_rows,
    pair_tile,
    pair_split,
    pairs,
    tokens,
    tiles_capacity,
    rows_capacity,
    max_context,
    SEGMENTS: tl.constexpr,
    SEGMENTS_BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program for each BLOCK of tokens, with the tiles and rows of logits of the same numbers.

    segments ``[SEGMENTS, 4]``: tokens, start, slot and rows of logits wanted, zero behind the
    last; the other columns as `schedule.Capacity.derived` names them. All int32.
    """
    period: tl.constexpr = CHUNK // TILE
    segment = tl.arange(0, SEGMENTS_BLOCK)
    there = segment < SEGMENTS
    count = tl.load(segments + 4 * segment, mask=there, other=0)
    start = tl.load(segments + 4 * segment + 1, mask=there, other=0)
    slot = tl.load(segments + 4 * segment + 2, mask=there, other=0)
    want = tl.load(segments + 4 * segment + 3, mask=there, other=0)
    ends = tl.cumsum(count, 0)
    first = ends - count
    tiles = (count + TILE - 1) // TILE
    tile_ends = tl.cumsum(tiles, 0)
    tile_first = tile_ends - tiles
    # Tile t of a segment sees (shift + t) // period + 1 chunks, but for the last, which may not be full.
    shift = (start - 1 + TILE) // TILE
    before_last = tl.maximum(tiles - 1, 0)
    last = tl.where(count > 0, (start + count - 1) // CHUNK + 1, 0)
    owned = _floors(shift + before_last, period) - _floors(shift, period) + before_last + last
    pair_ends = tl.cumsum(owned, 0)
    pair_first = pair_ends - owned
    want_ends = tl.cumsum(want, 0)
    if tl.program_id(0) == 0:
        tl.store(pairs, tl.sum(owned, 0))

    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    owner = _owner(ends, index)
    real = index < tl.sum(count, 0)
    offset = index - _of(segment, owner, first)
    position = _of(segment, owner, start) + offset
    tile = offset // TILE
    own_shift = _of(segment, owner, shift)
    own_count = _of(segment, owner, count)
    pair = (
        _of(segment, owner, pair_first)
        + _floors(own_shift + tile, period)
        - _floors(own_shift, period)
        + tile
    )
    final = position - offset + tl.minimum((tile + 1) * TILE, own_count) - 1
    inside = index < tokens
    tl.store(positions + index, tl.where(real, position, 0), mask=inside)
    place = _of(segment, owner, slot) * max_context + position
    tl.store(rows + index, tl.where(real, place, -1), mask=inside)
    tl.store(token_pair + index, tl.where(real, pair, 0), mask=inside)
    tl.store(token_splits + index, tl.where(real, final // CHUNK + 1, 0), mask=inside)
    tl.store(token_line + index, tl.where(real, offset % TILE, 0), mask=inside)

    owner = _owner(tile_ends, index)
    real = (index < tl.sum(tiles, 0)) & (index < tiles_capacity)
    tile = index - _of(segment, owner, tile_first)
    own_count = _of(segment, owner, count)
    own_start = _of(segment, owner, start)
    own_shift = _of(segment, owner, shift)
    begins = tile * TILE
    size = tl.minimum(TILE, own_count - begins)
    tl.store(tile_slot + index, _of(segment, owner, slot), mask=real)
    tl.store(tile_token + index, _of(segment, owner, first) + begins, mask=real)
    tl.store(tile_count + index, size, mask=real)
    tl.store(tile_position + index, own_start + begins, mask=real)
    pair = (
        _of(segment, owner, pair_first)
        + _floors(own_shift + tile, period)
        - _floors(own_shift, period)
        + tile
    )
    splits = (own_start + begins + size - 1) // CHUNK + 1
    split = tl.arange(0, SPLITS)
    at = pair[:, None] + split[None, :]
    seen = real[:, None] & (split[None, :] < splits[:, None])
    tl.store(pair_tile + at, index[:, None] + tl.zeros_like(at), mask=seen)
    tl.store(pair_split + at, split[None, :] + tl.zeros_like(at), mask=seen)

    owner = _owner(want_ends, index)
    row = _of(segment, owner, ends - want) + index - _of(segment, owner, want_ends - want)
    tl.store(logit_rows + index, tl.where(index < tl.sum(want, 0), row, 0), mask=index < rows_capacity)
