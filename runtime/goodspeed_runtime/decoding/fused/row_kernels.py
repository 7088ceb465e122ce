"""Triton kernels over rows of logits: what any verdict needs to know of them, one program a row.

Filters as `filtering` does, noise as `noise` does, without sorting a vocabulary: a
threshold is found by narrowing an interval of float bit patterns, three cuts a sweep.

All that the host knows comes in one int32 array, in columns: `REQUEST_COLUMNS` of one
number a request, the request of each row, five of one number a drafted token (token, its
weight, its support's weight, where the support starts, its size), then all supports'
ids and all their weights. `judging` writes it.
"""

# Triton's kernels read their arguments' types from the values, not from annotations.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

REQUEST_COLUMNS = tl.constexpr(9)
"""First row, first draft, drafts, temperature, top-k, top-p, low and high half of the seed, position."""


@triton.jit
def ordered(value):
    """Bit patterns of float32 as integers that are ordered as the floats are, both zeros alike."""
    bits = tl.where(value == 0, 0, value.to(tl.int32, bitcast=True))
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def uniform(seed_low, seed_high, position, stream, start):
    """`noise.uniform`, of the shape of `start`: Philox4x32-10, 53 bits, float64 in [0, 1)."""
    c1 = start.to(tl.uint32)
    c0 = tl.zeros_like(c1) + position.to(tl.uint32)
    c2 = tl.zeros_like(c0) + stream
    c3 = tl.zeros_like(c0)
    k0 = tl.zeros_like(c0) + seed_low.to(tl.uint32, bitcast=True)
    k1 = tl.zeros_like(c0) + seed_high.to(tl.uint32, bitcast=True)
    m0 = tl.zeros_like(c0) + 0xD2511F53
    m1 = tl.zeros_like(c0) + 0xCD9E8D57
    for _ in tl.static_range(10):
        h0 = tl.umulhi(c0, m0)
        h1 = tl.umulhi(c2, m1)
        l0 = c0 * m0
        l1 = c2 * m1
        c0 = h1 ^ c1 ^ k0
        c1 = l1
        c2 = h0 ^ c3 ^ k1
        c3 = l0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    mantissa = ((c0 >> 5).to(tl.int64) << 26) + (c1 >> 6).to(tl.int64)
    return mantissa.to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def reach(
    row,
    low,
    high,
    largest,
    inverse,
    goal,
    floor,
    VOCABULARY: tl.constexpr,
    BLOCK: tl.constexpr,
    BY_COUNT: tl.constexpr,
):
    """The highest ordered pattern t in [low, high] such that what is at or above t reaches `goal`.

    Reached is the count of logits, or the sum of exp((x - largest) * inverse) over those at or
    above the pattern `floor`. What is at or above `low` must reach it.
    """
    lanes = tl.arange(0, BLOCK)
    low, high = low.to(tl.int64), high.to(tl.int64)
    while low < high:
        step = tl.maximum((high - low) // 4, 1)
        cut1 = tl.minimum(low + step, high)
        cut2 = tl.minimum(low + 2 * step, high)
        cut3 = tl.minimum(low + 3 * step, high)
        sum1 = tl.zeros((BLOCK,), tl.float32)
        sum2 = tl.zeros((BLOCK,), tl.float32)
        sum3 = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, VOCABULARY, BLOCK):
            inside = start + lanes < VOCABULARY
            x = tl.load(row + start + lanes, mask=inside, other=float("-inf"))
            pattern = ordered(x).to(tl.int64)
            if BY_COUNT:
                weight = tl.where(inside, 1.0, 0.0)
            else:
                weight = tl.where(inside & (pattern >= floor), tl.exp((x - largest) * inverse), 0.0)
            sum1 += tl.where(pattern >= cut1, weight, 0.0)
            sum2 += tl.where(pattern >= cut2, weight, 0.0)
            sum3 += tl.where(pattern >= cut3, weight, 0.0)
        reached1 = tl.sum(sum1.to(tl.float64), 0) >= goal
        reached2 = tl.sum(sum2.to(tl.float64), 0) >= goal
        reached3 = tl.sum(sum3.to(tl.float64), 0) >= goal
        new_low = tl.where(reached3, cut3, tl.where(reached2, cut2, tl.where(reached1, cut1, low)))
        new_high = tl.where(
            reached3, high, tl.where(reached2, cut3 - 1, tl.where(reached1, cut2 - 1, cut1 - 1))
        )
        low, high = new_low, tl.maximum(new_high, new_low)
    return low


@triton.jit
def mass_above(row, floor, peak, inverse, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of exp((x - peak) * inverse) over logits at or above the pattern `floor`, float64."""
    lanes = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, VOCABULARY, BLOCK):
        inside = start + lanes < VOCABULARY
        x = tl.load(row + start + lanes, mask=inside, other=float("-inf"))
        kept = inside & (ordered(x).to(tl.int64) >= floor)
        sums += tl.where(kept, tl.exp((x - peak) * inverse), 0.0).to(tl.float64)
    return tl.sum(sums, 0)


@triton.jit
def real(column, index):
    """A float32 whose bits stand in an int32 column."""
    return tl.load(column + index).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["requests"])
def describe(
    logits,
    columns,
    requests,
    best,
    peaks,
    floors,
    masses,
    VOCABULARY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What is needed of a row to know any of its probabilities.

    p(x) = exp((x - peak) / temperature) / mass for logits whose pattern is at least the floor, else 0.
    best int32 ``[rows]``: the first largest logit, -1 where a logit is NaN or +inf.
    """
    index = tl.program_id(0)
    row = logits + index.to(tl.int64) * VOCABULARY
    request = tl.load(columns + REQUEST_COLUMNS * requests + index)
    temperature = real(columns + 3 * requests, request)
    top_k = tl.load(columns + 4 * requests + request)
    top_p = real(columns + 5 * requests, request)
    lanes = tl.arange(0, BLOCK)
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    where = tl.zeros((BLOCK,), tl.int32)
    broken = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, VOCABULARY, BLOCK):
        inside = start + lanes < VOCABULARY
        x = tl.load(row + start + lanes, mask=inside, other=float("-inf"))
        broken += ((x != x) | (x == float("inf"))).to(tl.int32)
        higher = x > largest
        largest = tl.where(higher, x, largest)
        where = tl.where(higher, start + lanes, where)
    peak = tl.max(largest, 0)
    first = tl.min(tl.where(largest == peak, where, VOCABULARY), 0)
    sound = (tl.sum(broken, 0) == 0) & (peak > float("-inf"))
    tl.store(best + index, tl.where(sound, first, -1))
    tl.store(peaks + index, peak)
    if (temperature > 0) & sound:
        inverse = 1.0 / tl.maximum(temperature, 1.1754943508222875e-38)
        floor = tl.full((), -0x80000000, tl.int64)
        top = ordered(peak).to(tl.int64)
        if (top_k > 0) & (top_k < VOCABULARY):
            floor = reach(
                row, floor, top, peak, inverse, top_k.to(tl.float64), floor, VOCABULARY, BLOCK, True
            )
        mass = mass_above(row, floor, peak, inverse, VOCABULARY, BLOCK)
        if top_p < 1:
            goal = top_p.to(tl.float64) * mass
            floor = reach(row, floor, top, peak, inverse, goal, floor, VOCABULARY, BLOCK, False)
            mass = mass_above(row, floor, peak, inverse, VOCABULARY, BLOCK)
        tl.store(floors + index, floor)
        tl.store(masses + index, mass)
