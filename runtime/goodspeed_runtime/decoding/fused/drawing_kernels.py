"""Triton kernels that draw a draft model's tokens, and that describe the step which feeds them.

The rule is `proposing.drawn`, from the same noise. Rows that are greedy need the whole vocabulary's share of
their likeliest token: many programs a row look at a part each. Rows that are sampled need the likeliest few,
in order, which torch finds.
"""

# Triton's kernels read their arguments' types from the values, not from annotations.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from goodspeed_runtime.decoding.fused.row_kernels import uniform


@triton.jit(do_not_specialize=["stride"])
def summarise(logits, stride, greedy, peaks, places, masses, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """Of one part of a greedy row: the first largest logit, its column, and the sum of exp(x - largest).

    logits float32 ``[rows, COLUMNS]``, rows ``stride`` apart; peaks and masses float32, places int32
    ``[rows, parts]``. The mass is NaN where a logit is NaN or +inf.
    """
    row, part = tl.program_id(0), tl.program_id(1)
    if tl.load(greedy + row) != 0:
        lanes = part * BLOCK + tl.arange(0, BLOCK)
        inside = lanes < COLUMNS
        x = tl.load(logits + row.to(tl.int64) * stride + lanes, mask=inside, other=float("-inf"))
        known = tl.where(x == x, x, float("-inf"))
        peak = tl.max(known, 0)
        place = tl.min(tl.where(inside & (known == peak), lanes, COLUMNS), 0)
        mass = tl.sum(tl.where(x == float("-inf"), 0.0, tl.exp(x - peak)), 0)
        at = row * tl.num_programs(1) + part
        tl.store(peaks + at, peak)
        tl.store(places + at, place)
        tl.store(masses + at, mass)


@triton.jit(do_not_specialize=["columns_stride"])
def draw(
    best,
    ids,
    peaks,
    places,
    masses,
    token_ids,
    temperature,
    top_p,
    widths,
    greedy,
    seeds,
    positions,
    starts,
    step,
    columns,
    columns_stride,
    tokens,
    PARTS: tl.constexpr,
    PARTS_BLOCK: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    WEIGHT_LIMIT: tl.constexpr,
    MAPPED: tl.constexpr,
    SAMPLED: tl.constexpr,
    COUPLED: tl.constexpr,
):
    """One row's token into ``tokens`` and, with its confidence and q, into ``columns[step]``.

    best float32 and ids int64 ``[rows, SIZE]``: the largest logits and their columns, if any row is SAMPLED;
    peaks, places and masses as `summarise` writes them; then `proposing.Manner`.
    columns int32 ``[steps, rows, WIDTH]``, steps ``columns_stride`` apart.
    """
    row = tl.program_id(0)
    drawn = tl.load(step)
    out = columns + drawn * columns_stride + row * WIDTH
    is_greedy = tl.load(greedy + row) != 0
    part = tl.arange(0, PARTS_BLOCK)
    of_row = row * PARTS + part
    there = (part < PARTS) & is_greedy
    peak = tl.load(peaks + of_row, mask=there, other=float("-inf"))
    place = tl.load(places + of_row, mask=there, other=0)
    mass = tl.load(masses + of_row, mask=there, other=0.0)
    largest = tl.max(peak, 0)
    # Parts without any logit above -inf have no mass, and no difference of infinities may touch the sum.
    whole = tl.sum(tl.where(mass == 0, 0.0, mass * tl.exp(peak - largest)), 0)
    column = tl.min(tl.where(there & (peak == largest), place, 0x7FFFFFFF), 0)
    token = tl.where(is_greedy, column, 0).to(tl.int64)
    if MAPPED:
        token = tl.load(token_ids + token)
    confidence = tl.where(whole > 0, 1.0 / whole, 0.0).to(tl.float32)
    if SAMPLED:
        lanes = tl.arange(0, BLOCK)
        inside = lanes < SIZE
        x = tl.load(best + row * SIZE + lanes, mask=inside, other=float("-inf"))
        first = tl.load(best + row * SIZE)
        known = tl.load(ids + row * SIZE + lanes, mask=inside, other=0)
        if MAPPED:
            known = tl.load(token_ids + known, mask=inside, other=0)
        relative = tl.exp((x - first).to(tl.float64) / tl.load(temperature + row))
        # A draft model gone wrong costs acceptance, never more: NaN weighs nothing.
        relative = tl.where((relative == relative) & (lanes < tl.load(widths + row)) & inside, relative, 0.0)
        share = relative / tl.sum(relative, 0)
        relative = tl.where(tl.cumsum(share, 0) - share >= tl.load(top_p + row), 0.0, relative)
        seed = tl.load(seeds + row)
        low, high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
        position = tl.load(positions + row) + drawn
        if COUPLED:
            times = relative / -tl.log(uniform(low, high, position, 3, known) + 5.551115123125783e-17)
            times = tl.where(inside, times, -1.0)
            lane = tl.min(tl.where(times == tl.max(times, 0), lanes, BLOCK), 0)
            total = tl.sum(relative, 0)
            sure = tl.sum(tl.where(lanes == 0, relative, 0.0), 0) / total
            sure = tl.where(total > 0, sure, 0.0)
        else:
            weights = tl.floor(relative * WEIGHT_LIMIT + 0.5).to(tl.int64)
            weights = tl.where(is_greedy, 0, weights)
            reached = tl.cumsum(weights, 0)
            total = tl.sum(weights, 0)
            noise = uniform(low, high, position, 2, tl.load(starts + row))
            goal = tl.floor(noise * total.to(tl.float64)).to(tl.int64)
            lane = tl.minimum(tl.sum((inside & (reached <= goal)).to(tl.int32), 0), SIZE - 1)
            sure = tl.sum(tl.where(lanes == 0, weights, 0), 0).to(tl.float64)
            sure = sure / tl.maximum(total, 1).to(tl.float64)
            tl.store(out + 2 + lanes, weights.to(tl.int32), mask=inside)
            tl.store(out + 2 + SIZE + lanes, known.to(tl.int32), mask=inside)
        own = tl.sum(tl.where(lanes == lane, known, 0), 0)
        token = tl.where(is_greedy, token, own)
        confidence = tl.where(is_greedy, confidence, sure.to(tl.float32))
    tl.store(out, token.to(tl.int32))
    tl.store(out + 1, confidence.to(tl.int32, bitcast=True))
    tl.store(tokens + row, token.to(tl.int32))


@triton.jit
def advance(step, slots, positions, counts, segments, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Counts a token drawn of every row, and describes the step that feeds it.

    slots, positions, counts int64 ``[ROWS]``; segments int32 ``[ROWS, 4]``, see `schedule.describe`.
    Rows that have all their tokens become nobody's. For one warp: the step is read before it is written.
    """
    drawn = tl.load(step) + 1
    row = tl.arange(0, BLOCK)
    inside = row < ROWS
    goes_on = tl.load(counts + row, mask=inside, other=0) > drawn
    start = tl.load(positions + row, mask=inside, other=0) + drawn - 1
    slot = tl.load(slots + row, mask=inside, other=0)
    one = goes_on.to(tl.int32)
    tl.store(segments + 4 * row, one, mask=inside)
    tl.store(segments + 4 * row + 1, tl.where(goes_on, start, 0).to(tl.int32), mask=inside)
    tl.store(segments + 4 * row + 2, tl.where(goes_on, slot, 0).to(tl.int32), mask=inside)
    tl.store(segments + 4 * row + 3, one, mask=inside)
    tl.store(step, drawn)
