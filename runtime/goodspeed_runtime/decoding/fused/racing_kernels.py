"""Triton kernels of coupled verification: each row's race, then one program a request.

The same draws as `coupling` makes with torch's operations, from the same noise; both come
after `row_kernels.describe`.
"""

# Triton's kernels read their arguments' types from the values, not from annotations.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from goodspeed_runtime.decoding.fused.row_kernels import REQUEST_COLUMNS, ordered, reach, real, uniform


@triton.jit
def _shares(row, floor, peak, inverse, mass, start, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr):
    """Patterns and probabilities of one block, int64 and float64."""
    lanes = start + tl.arange(0, BLOCK)
    inside = lanes < VOCABULARY
    x = tl.load(row + lanes, mask=inside, other=float("-inf"))
    pattern = ordered(x).to(tl.int64)
    kept = inside & (pattern >= floor)
    return pattern, tl.where(kept, tl.exp((x - peak) * inverse), 0.0).to(tl.float64) / mass


@triton.jit
def _exponential(seed_low, seed_high, position, stream, start):
    """`coupling.exponentials` and the like, of the shape of `start`."""
    return -tl.log(uniform(seed_low, seed_high, position, stream, start) + 5.551115123125783e-17)


@triton.jit(do_not_specialize=["requests"])
def race(
    logits,
    columns,
    requests,
    best,
    peaks,
    floors,
    masses,
    VOCABULARY: tl.constexpr,
    BLOCK: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    """Puts the winner of a sampled row's race into ``best[row]``."""
    index = tl.program_id(0)
    request = tl.load(columns + REQUEST_COLUMNS * requests + index)
    if (real(columns + 3 * requests, request) > 0) & (tl.load(best + index) >= 0):
        inverse = 1.0 / tl.maximum(real(columns + 3 * requests, request), 1.1754943508222875e-38)
        seed_low = tl.load(columns + 6 * requests + request)
        seed_high = tl.load(columns + 7 * requests + request)
        place = index - tl.load(columns + request)
        position = tl.load(columns + 8 * requests + request) + place
        row = logits + index.to(tl.int64) * VOCABULARY
        peak, floor, mass = tl.load(peaks + index), tl.load(floors + index), tl.load(masses + index)
        lanes = tl.arange(0, BLOCK)
        count = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, VOCABULARY, BLOCK):
            inside = start + lanes < VOCABULARY
            x = tl.load(row + start + lanes, mask=inside, other=float("-inf"))
            count += (inside & (ordered(x).to(tl.int64) >= floor)).to(tl.int32)
        cut = floor
        if tl.sum(count, 0) > CANDIDATES:
            goal = tl.full((), CANDIDATES, tl.float64)
            top = ordered(peak).to(tl.int64)
            cut = reach(row, floor, top, peak, inverse, goal, floor, VOCABULARY, BLOCK, True)
        ahead = tl.full((BLOCK,), -1.0, tl.float64)
        winner = tl.zeros((BLOCK,), tl.int32)
        others = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, VOCABULARY, BLOCK):
            pattern, share = _shares(row, floor, peak, inverse, mass, start, VOCABULARY, BLOCK)
            runs = (pattern >= cut) & (share > 0)
            others += tl.where(runs, 0.0, share)
            if tl.sum(runs.to(tl.int32), 0) > 0:
                pace = share / _exponential(seed_low, seed_high, position, 3, start + lanes)
                faster = runs & (pace > ahead)
                ahead = tl.where(faster, pace, ahead)
                winner = tl.where(faster, start + lanes, winner)
        first = tl.max(ahead, 0)
        chosen = tl.min(tl.where(ahead == first, winner, VOCABULARY), 0)
        rest = tl.sum(others, 0)
        none = position & 0
        if rest / _exponential(seed_low, seed_high, position, 4, none) > first:
            goal = uniform(seed_low, seed_high, position, 5, none) * rest
            before = tl.zeros((), tl.float64)
            start = 0
            found = tl.full((), -1, tl.int32)
            last = tl.full((), -1, tl.int32)
            while (found < 0) & (start < VOCABULARY):
                pattern, share = _shares(row, floor, peak, inverse, mass, start, VOCABULARY, BLOCK)
                share = tl.where(pattern >= cut, 0.0, share)
                sums = tl.cumsum(share, 0) + before
                hit = tl.min(tl.where((sums > goal) & (share > 0), start + lanes, VOCABULARY), 0)
                found = tl.where(hit < VOCABULARY, hit, -1)
                # Rounding may leave the goal just out of reach: then the last one with a share is it.
                last = tl.maximum(last, tl.max(tl.where(share > 0, start + lanes, -1), 0))
                before = tl.max(sums, 0)
                start += BLOCK
            chosen = tl.where(found >= 0, found, last)
        tl.store(best + index, chosen)


@triton.jit(do_not_specialize=["requests", "drafts"])
def settle(columns, requests, drafts, best, outcomes):
    """Accepted, next token and soft ratio (`coupling.verify_coupled`), float64 ``outcomes[3, requests]``."""
    index = tl.program_id(0)
    first_row = tl.load(columns + index)
    first_draft = tl.load(columns + requests + index)
    count = tl.load(columns + 2 * requests + index)
    tokens = columns + (REQUEST_COLUMNS + 1) * requests + drafts
    accepted = tl.zeros((), tl.int32)
    going = tl.full((), 1, tl.int32)
    for j in range(count):
        stands = tl.load(best + first_row + j) == tl.load(tokens + first_draft + j)
        going = going & stands.to(tl.int32)
        accepted += going
    tested = tl.maximum(tl.minimum(accepted + 1, count), 1).to(tl.float64)
    tl.store(outcomes + index, accepted.to(tl.float64))
    tl.store(outcomes + requests + index, tl.load(best + first_row + accepted).to(tl.float64))
    tl.store(outcomes + 2 * requests + index, accepted.to(tl.float64) * count.to(tl.float64) / tested)
