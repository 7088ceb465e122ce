"""Triton kernel of rejection sampling: one program a request, after `row_kernels.describe`.

The same decisions as `verification` takes with torch's operations, from the same noise.
"""

# Triton's kernels read their arguments' types from the values, not from annotations.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from goodspeed_runtime.decoding.fused.row_kernels import REQUEST_COLUMNS, ordered, real, uniform


@triton.jit
def residual(
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
    kept = inside & (ordered(x).to(tl.int64) >= floor)
    p = tl.where(kept, tl.exp((x - peak) * inverse), 0.0).to(tl.float64) / mass
    for k in range(size):
        id_k = tl.load(ids + at + k)
        q = tl.load(weights + at + k).to(tl.float64) / total
        p = tl.where(lanes == id_k, tl.maximum(p - q, 0.0), p)
    # A point mass: everything on the drafted token.
    return tl.where(lanes == own_id, 0.0, p)


@triton.jit(do_not_specialize=["requests", "drafts", "supports"])
def judge(
    logits,
    columns,
    requests,
    drafts,
    supports,
    best,
    peaks,
    floors,
    masses,
    outcomes,
    VOCABULARY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Accepted, next token and summed soft ratio of one request, float64 ``outcomes[3, requests]``."""
    index = tl.program_id(0)
    first_row = tl.load(columns + index)
    first_draft = tl.load(columns + requests + index)
    count = tl.load(columns + 2 * requests + index)
    temperature = real(columns + 3 * requests, index)
    seed_low = tl.load(columns + 6 * requests + index)
    seed_high = tl.load(columns + 7 * requests + index)
    position = tl.load(columns + 8 * requests + index)
    none = position & 0
    tokens = columns + (REQUEST_COLUMNS + 1) * requests + drafts
    own_weights = tokens + drafts
    total_weights = own_weights + drafts
    support_at = total_weights + drafts
    support_sizes = support_at + drafts
    support_ids = support_sizes + drafts
    support_weights = support_ids + supports
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
            kept = ordered(x).to(tl.int64) >= tl.load(floors + row)
            p = tl.where(kept, tl.exp((x - tl.load(peaks + row)) * inverse), 0.0).to(tl.float64)
            p = p / tl.load(masses + row)
            # A row with a logit that is not finite was not described: nothing there stands.
            p = tl.where(tl.load(best + row) >= 0, p, 0.0)
            own = tl.load(own_weights + first_draft + j).to(tl.float64)
            total = tl.load(total_weights + first_draft + j).to(tl.float64)
            stands = (uniform(seed_low, seed_high, position + j, 0, none) * own < p * total).to(tl.int32)
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
            sums += residual(
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
                sums += residual(
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
        goal = uniform(seed_low, seed_high, position + accepted, 1, none) * total
        before = tl.zeros((), tl.float64)
        start = 0
        lanes = tl.arange(0, BLOCK)
        found = tl.full((), -1, tl.int32)
        last = tl.full((), -1, tl.int32)
        while (found < 0) & (start < VOCABULARY):
            w = residual(
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
