"""Triton kernels of the lossless test: one program a row of logits, then one a request.

The same decisions as `verification` takes with torch's operations, from the same
noise, in two launches and without sorting a vocabulary: a threshold is found by
narrowing an interval of float bit patterns, three cuts a sweep.
"""

# Triton's kernels read their arguments' types from the values, not from annotations.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _ordered(value):
    """Bit patterns of float32 as integers that are ordered as the floats are."""
    bits = value.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _uniform(seed_low, seed_high, position, stream):
    """`noise.uniform` for start 0: Philox4x32-10, 53 bits, float64 in [0, 1)."""
    c0 = position.to(tl.uint32)
    c1 = tl.zeros_like(c0)
    c2 = tl.zeros_like(c0) + stream
    c3 = tl.zeros_like(c0)
    k0 = seed_low.to(tl.uint32, bitcast=True)
    k1 = seed_high.to(tl.uint32, bitcast=True)
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
def _reach(
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
            pattern = _ordered(x).to(tl.int64)
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
def describe(
    logits,
    row_request,
    temperatures,
    top_ks,
    top_ps,
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
    request = tl.load(row_request + index)
    temperature = tl.load(temperatures + request)
    top_k = tl.load(top_ks + request)
    top_p = tl.load(top_ps + request)
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
        top = _ordered(peak).to(tl.int64)
        if (top_k > 0) & (top_k < VOCABULARY):
            floor = _reach(
                row, floor, top, peak, inverse, top_k.to(tl.float64), floor, VOCABULARY, BLOCK, True
            )
        sums = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, VOCABULARY, BLOCK):
            inside = start + lanes < VOCABULARY
            x = tl.load(row + start + lanes, mask=inside, other=float("-inf"))
            kept = inside & (_ordered(x).to(tl.int64) >= floor)
            sums += tl.where(kept, tl.exp((x - peak) * inverse), 0.0).to(tl.float64)
        mass = tl.sum(sums, 0)
        if top_p < 1:
            goal = top_p.to(tl.float64) * mass
            floor = _reach(row, floor, top, peak, inverse, goal, floor, VOCABULARY, BLOCK, False)
            sums = tl.zeros((BLOCK,), tl.float64)
            for start in range(0, VOCABULARY, BLOCK):
                inside = start + lanes < VOCABULARY
                x = tl.load(row + start + lanes, mask=inside, other=float("-inf"))
                kept = inside & (_ordered(x).to(tl.int64) >= floor)
                sums += tl.where(kept, tl.exp((x - peak) * inverse), 0.0).to(tl.float64)
            mass = tl.sum(sums, 0)
        tl.store(floors + index, floor)
        tl.store(masses + index, mass)


@triton.jit
def _residual(
    row,
    ids,
    weights,
    at,
    size,
    total,
    own_id,
    peak,
    inverse,
    floor,
    mass,
    start,
    VOCABULARY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """max(0, p - q) of one block, float64; without a draft q is 0."""
    lanes = start + tl.arange(0, BLOCK)
    inside = lanes < VOCABULARY
    x = tl.load(row + lanes, mask=inside, other=float("-inf"))
    kept = inside & (_ordered(x).to(tl.int64) >= floor)
    p = tl.where(kept, tl.exp((x - peak) * inverse), 0.0).to(tl.float64) / mass
    for k in range(size):
        id_k = tl.load(ids + at + k)
        q = tl.load(weights + at + k).to(tl.float64) / total
        p = tl.where(lanes == id_k, tl.maximum(p - q, 0.0), p)
    # A point mass: everything on the drafted token.
    return tl.where(lanes == own_id, 0.0, p)


@triton.jit
def judge(
    logits,
    first_rows,
    first_drafts,
    counts,
    temperatures,
    seeds_low,
    seeds_high,
    positions,
    tokens,
    own_weights,
    total_weights,
    support_at,
    support_sizes,
    support_ids,
    support_weights,
    best,
    peaks,
    floors,
    masses,
    outcomes,
    requests,
    VOCABULARY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Accepted, next token and summed soft ratio of one request, float64 ``outcomes[3, requests]``."""
    index = tl.program_id(0)
    first_row = tl.load(first_rows + index)
    first_draft = tl.load(first_drafts + index)
    count = tl.load(counts + index)
    temperature = tl.load(temperatures + index)
    seed_low = tl.load(seeds_low + index)
    seed_high = tl.load(seeds_high + index)
    position = tl.load(positions + index)
    sampled = temperature > 0
    inverse = 1.0 / tl.maximum(temperature, 1.1754943508222875e-38)
    accepted = tl.zeros((), tl.int32)
    going = tl.full((), 1, tl.int32)
    soft = tl.zeros((), tl.float64)
    for j in range(count):
        row = first_row + j
        token = tl.load(tokens + first_draft + j)
        stands = (tl.load(best + row) == token).to(tl.int32)
        ratio = stands.to(tl.float64)
        if sampled:
            x = tl.load(logits + row.to(tl.int64) * VOCABULARY + token)
            kept = _ordered(x).to(tl.int64) >= tl.load(floors + row)
            p = tl.where(kept, tl.exp((x - tl.load(peaks + row)) * inverse), 0.0).to(tl.float64)
            p = p / tl.load(masses + row)
            # A row with a logit that is not finite was not described: nothing there stands.
            p = tl.where(tl.load(best + row) >= 0, p, 0.0)
            own = tl.load(own_weights + first_draft + j).to(tl.float64)
            total = tl.load(total_weights + first_draft + j).to(tl.float64)
            stands = (_uniform(seed_low, seed_high, position + j, 0) * own < p * total).to(tl.int32)
            ratio = tl.minimum(p * total / own, 1.0)
        soft += ratio
        going = going & stands
        accepted += going
    final = first_row + accepted
    chosen = tl.load(best + final)
    if sampled & (chosen >= 0):
        row = logits + final.to(tl.int64) * VOCABULARY
        peak = tl.load(peaks + final)
        floor = tl.load(floors + final)
        mass = tl.load(masses + final)
        rejected = accepted < count
        at = tl.zeros((), tl.int32)
        size = tl.zeros((), tl.int32)
        whole = tl.full((), 1.0, tl.float64)
        own_id = tl.full((), -1, tl.int32)
        if rejected:
            draft = first_draft + accepted
            at = tl.load(support_at + draft)
            size = tl.load(support_sizes + draft)
            whole = tl.load(total_weights + draft).to(tl.float64)
            own_id = tl.where(size == 0, tl.load(tokens + draft), -1)
        sums = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, VOCABULARY, BLOCK):
            sums += _residual(
                row,
                support_ids,
                support_weights,
                at,
                size,
                whole,
                own_id,
                peak,
                inverse,
                floor,
                mass,
                start,
                VOCABULARY,
                BLOCK,
            )
        total = tl.sum(sums, 0)
        if total == 0:
            # p and q agree to the last bit: the residual's limit is p itself.
            size = tl.zeros((), tl.int32)
            own_id = tl.full((), -1, tl.int32)
            for start in range(0, VOCABULARY, BLOCK):
                sums += _residual(
                    row,
                    support_ids,
                    support_weights,
                    at,
                    size,
                    whole,
                    own_id,
                    peak,
                    inverse,
                    floor,
                    mass,
                    start,
                    VOCABULARY,
                    BLOCK,
                )
            total = tl.sum(sums, 0)
        goal = _uniform(seed_low, seed_high, position + accepted, 1) * total
        before = tl.zeros((), tl.float64)
        start = 0
        lanes = tl.arange(0, BLOCK)
        found = tl.full((), -1, tl.int32)
        last = tl.full((), -1, tl.int32)
        while (found < 0) & (start < VOCABULARY):
            w = _residual(
                row,
                support_ids,
                support_weights,
                at,
                size,
                whole,
                own_id,
                peak,
                inverse,
                floor,
                mass,
                start,
                VOCABULARY,
                BLOCK,
            )
            reach = tl.cumsum(w, 0) + before
            above = (reach > goal) & (w > 0)
            hit = tl.min(tl.where(above, start + lanes, VOCABULARY), 0)
            found = tl.where(hit < VOCABULARY, hit, -1)
            # Rounding may leave the goal just out of reach: then the last token with a weight is the one.
            last = tl.maximum(last, tl.max(tl.where(w > 0, start + lanes, -1), 0))
            before = tl.max(reach, 0)
            start += BLOCK
        chosen = tl.where(found >= 0, found, last)
    tl.store(outcomes + index, accepted.to(tl.float64))
    tl.store(outcomes + requests + index, chosen.to(tl.float64))
    tl.store(outcomes + 2 * requests + index, soft)
