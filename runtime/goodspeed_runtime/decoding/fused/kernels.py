"""Triton kernels of a decoder layer over a ragged batch: everything but the matrix products.

Each kernel's grid depends on the padded number of tokens alone and reads who is
who from device memory, so a captured CUDA graph serves any mix of sequences.
How tokens, tiles and pairs are laid out is `schedule`'s concern, which buffers
are used `decoder`'s.
"""

# Triton's kernels read their arguments' types from the values, not from annotations.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def after_predecessor(EARLY: tl.constexpr):
    """Lets the next kernel start, and waits until the one before has written all that it writes."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def add_norm(
    delta,
    residual,
    weight,
    normed,
    epsilon,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Residual += delta; normed = RMSNorm(residual) * weight; one program a token.

    delta, residual, normed ``[tokens, HIDDEN]``, weight ``[HIDDEN]``.
    """
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    gain = tl.load(weight + columns, mask=inside, other=0.0)
    after_predecessor(EARLY)
    at = token * HIDDEN + columns
    dtype = residual.dtype.element_ty
    value = tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        # The plain model keeps the residual in its own dtype between layers.
        value = value.to(dtype).to(tl.float32)
        tl.store(residual + at, value, mask=inside)
    scale = tl.rsqrt(tl.sum(value * value, 0) / HIDDEN + epsilon)
    tl.store(normed + at, (value * scale).to(dtype) * gain, mask=inside)


@triton.jit
def rotate_and_store(
    projected,
    positions,
    rows,
    cosine,
    sine,
    query_gain,
    key_gain,
    query,
    keys,
    values,
    epsilon,
    QUERY_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    HEAD_NORM: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Head norm, rotary embedding, and the new keys and values into their slots.

    projected ``[tokens, QUERY_HEADS + 2 * KV_HEADS, 2 * HALF]``; cosine and sine
    ``[positions, HALF]``; query ``[tokens, QUERY_HEADS, 2 * HALF]``; keys and values
    ``[places, KV_HEADS, 2 * HALF]``, written at rows ``[tokens]`` unless that is negative.
    """
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK)
    lanes = tl.arange(0, HALF)
    size: tl.constexpr = 2 * HALF
    every: tl.constexpr = QUERY_HEADS + 2 * KV_HEADS
    inside = (heads < every)[:, None]
    is_query = (heads < QUERY_HEADS)[:, None]
    is_value = (heads >= QUERY_HEADS + KV_HEADS)[:, None]
    dtype = query.dtype.element_ty
    angle = tl.load(positions + token).to(tl.int64) * HALF + lanes
    cos = tl.load(cosine + angle).to(tl.float32)[None, :]
    sin = tl.load(sine + angle).to(tl.float32)[None, :]
    row = tl.load(rows + token).to(tl.int64)
    after_predecessor(EARLY)
    source = projected + (token * every + heads[:, None]) * size + lanes[None, :]
    low = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    turned_low, turned_high = low, high
    if HEAD_NORM:
        scale = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / size + epsilon)[:, None]
        gain_low = tl.where(
            is_query, tl.load(query_gain + lanes)[None, :], tl.load(key_gain + lanes)[None, :]
        )
        gain_high = tl.where(
            is_query, tl.load(query_gain + HALF + lanes)[None, :], tl.load(key_gain + HALF + lanes)[None, :]
        )
        turned_low = ((low * scale).to(dtype) * gain_low).to(dtype).to(tl.float32)
        turned_high = ((high * scale).to(dtype) * gain_high).to(dtype).to(tl.float32)
    new_low = tl.where(is_value, low, turned_low * cos - turned_high * sin).to(dtype)
    new_high = tl.where(is_value, high, turned_high * cos + turned_low * sin).to(dtype)

    into_query = query + (token * QUERY_HEADS + heads[:, None]) * size + lanes[None, :]
    tl.store(into_query, new_low, mask=is_query)
    tl.store(into_query + HALF, new_high, mask=is_query)
    kept = row >= 0
    key_head = heads[:, None] - QUERY_HEADS
    into_keys = keys + (row * KV_HEADS + key_head) * size + lanes[None, :]
    is_key = inside & (key_head >= 0) & (key_head < KV_HEADS) & kept
    tl.store(into_keys, new_low, mask=is_key)
    tl.store(into_keys + HALF, new_high, mask=is_key)
    value_head = key_head - KV_HEADS
    into_values = values + (row * KV_HEADS + value_head) * size + lanes[None, :]
    tl.store(into_values, new_low, mask=inside & is_value & kept)
    tl.store(into_values + HALF, new_high, mask=inside & is_value & kept)


@triton.jit
def fetch(places, count):
    """Asks for ``count`` values from each place on into the L2 cache."""
    width = count * (places.dtype.element_ty.primitive_bitwidth // 8)
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;",
        "=r,l,r",
        [places.to(tl.int64, bitcast=True), tl.zeros(places.shape, tl.int32) + width],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def attend(
    query,
    keys,
    values,
    tile_slot,
    tile_token,
    tile_count,
    tile_position,
    pair_tile,
    pair_split,
    pairs,
    partial,
    partial_log,
    scaling,
    window,
    max_context,
    QUERY_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    WINDOWED: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    FETCHED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Attention of tiles of query tokens over chunks of their slots' context.

    A pair is (tile, chunk); with a key-value head it is one item of work. Programs
    walk the items in strides, so the grid is fixed whatever the batch holds. A
    chunk is always the same stretch of positions: what a sequence gets does not
    depend on who shares the pass. The query heads of a key-value head are further
    rows of the tile.

    query ``[tokens, QUERY_HEADS, SIZE]``; keys, values ``[slots, max_context, KV_HEADS, SIZE]``;
    partial float32 ``[pairs, KV_HEADS, TILE * GROUP, SIZE]``, normalised within its chunk;
    partial_log float32 ``[pairs, KV_HEADS, TILE * GROUP]``, base-2 logarithm of its weight.
    """
    heads_each: tl.constexpr = QUERY_HEADS // KV_HEADS
    lines: tl.constexpr = TILE * GROUP
    line = tl.arange(0, lines)
    member = line % GROUP
    offset = line // GROUP
    columns = tl.arange(0, SIZE)
    items = tl.load(pairs) * KV_HEADS
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        pair = item // KV_HEADS
        head = item % KV_HEADS
        tile = tl.load(pair_tile + pair)
        first = tl.load(pair_split + pair) * CHUNK
        slot = tl.load(tile_slot + tile).to(tl.int64)
        count = tl.load(tile_count + tile)
        position = tl.load(tile_position + tile)
        here = (offset < count) & (member < heads_each)
        token = tl.load(tile_token + tile) + offset
        place = (token * QUERY_HEADS + head * heads_each + member)[:, None] * SIZE + columns[None, :]
        limit = position + offset
        end = tl.minimum(first + CHUNK, position + count)
        begin = first
        if WINDOWED:
            begin = tl.maximum(first, (position - window + 1) // BLOCK * BLOCK)
        base = (slot * max_context * KV_HEADS + head) * SIZE
        if EARLY and item == tl.program_id(0):
            # What earlier passes wrote need not wait for this one's queries.
            spots = tl.minimum(begin + tl.arange(0, FETCHED), end - 1).to(tl.int64)
            fetch(keys + base + spots * (KV_HEADS * SIZE), SIZE)
            fetch(values + base + spots * (KV_HEADS * SIZE), SIZE)
        after_predecessor(EARLY)
        q = tl.load(query + place, mask=here[:, None], other=0.0)
        largest = tl.full((lines,), float("-inf"), tl.float32)
        total = tl.zeros((lines,), tl.float32)
        sums = tl.zeros((lines, SIZE), tl.float32)
        for start in tl.range(begin, end, BLOCK, num_stages=STAGES):
            spots = start + tl.arange(0, BLOCK)
            at = base + spots.to(tl.int64)[:, None] * (KV_HEADS * SIZE) + columns[None, :]
            read = (spots < end)[:, None]
            k = tl.load(keys + at, mask=read, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scaling
            seen = spots[None, :] <= limit[:, None]
            if WINDOWED:
                seen = seen & (spots[None, :] > limit[:, None] - window)
            scores = tl.where(seen, scores, float("-inf"))
            new = tl.maximum(largest, tl.max(scores, 1))
            # Nothing seen yet: subtracting -inf from -inf would be NaN.
            safe = tl.where(new == float("-inf"), 0.0, new)
            weights = tl.exp2(scores - safe[:, None])
            fade = tl.exp2(largest - safe)
            total = total * fade + tl.sum(weights, 1)
            v = tl.load(values + at, mask=read, other=0.0)
            sums = tl.dot(weights.to(v.dtype), v, sums * fade[:, None], input_precision=PRECISION)
            largest = new
        some = total > 0
        spot = (pair.to(tl.int64) * KV_HEADS + head) * lines + line
        tl.store(partial_log + spot, tl.where(some, largest + tl.log2(total), float("-inf")), mask=here)
        sums = sums / tl.where(some, total, 1.0)[:, None]
        tl.store(partial + spot[:, None] * SIZE + columns[None, :], sums, mask=here[:, None])


@triton.jit
def combine(
    partial,
    partial_log,
    token_pair,
    token_splits,
    token_line,
    attended,
    QUERY_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Joins the chunks of a token's context, in their order; one program for each token and key-value head.

    attended ``[tokens, QUERY_HEADS, SIZE]``; a padding token has no splits and gets zeros.
    """
    heads_each: tl.constexpr = QUERY_HEADS // KV_HEADS
    lines: tl.constexpr = TILE * GROUP
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    columns = tl.arange(0, SIZE)
    member = tl.arange(0, GROUP)
    here = member < heads_each
    first = tl.load(token_pair + token).to(tl.int64)
    splits = tl.load(token_splits + token)
    spot = (first * KV_HEADS + head) * lines + tl.load(token_line + token) * GROUP + member
    after_predecessor(EARLY)
    largest = tl.full((GROUP,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP,), tl.float32)
    sums = tl.zeros((GROUP, SIZE), tl.float32)
    for split in range(splits):
        at = spot + split * (KV_HEADS * lines)
        log = tl.load(partial_log + at, mask=here, other=float("-inf"))
        part = tl.load(partial + at[:, None] * SIZE + columns[None, :], mask=here[:, None], other=0.0)
        new = tl.maximum(largest, log)
        safe = tl.where(new == float("-inf"), 0.0, new)
        fade = tl.exp2(largest - safe)
        share = tl.exp2(log - safe)
        total = total * fade + share
        sums = sums * fade[:, None] + part * share[:, None]
        largest = new
    place = (token * QUERY_HEADS + head * heads_each + member)[:, None] * SIZE + columns[None, :]
    tl.store(attended + place, sums / tl.where(total > 0, total, 1.0)[:, None], mask=here[:, None])


@triton.jit
def gate(both, gated, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """Gated = silu(gate) * up; both ``[tokens, 2 * WIDTH]``, gated ``[tokens, WIDTH]``."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    after_predecessor(EARLY)
    value = tl.load(both + token * 2 * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + token * 2 * WIDTH + WIDTH + columns, mask=inside, other=0.0)
    # Rounded where the plain model rounds, so that both see the same activations.
    turned = (value / (1.0 + tl.exp(-value))).to(gated.dtype.element_ty)
    tl.store(gated + token * WIDTH + columns, turned * up, mask=inside)
