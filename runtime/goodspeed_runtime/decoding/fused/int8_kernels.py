"""Triton kernels that multiply inputs by int8 weights.

The weights are the rows of the matrix unit's tile and come through registers, where they
become the inputs' dtype, which is exact. Sums are float32; a row's scale is applied once, at the end.

The depth is cut into SPLIT parts at the same places whatever the pass holds, and parts are added
in their order, either here or by `collect`. So a token's result does not depend on who shares the pass.
"""

# Triton's kernels read their arguments' types from the values, not from annotations.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from goodspeed_runtime.decoding.fused.kernels import after_predecessor, fetch

GRAIN = tl.constexpr(128)
"""Parts of the depth begin at multiples of it."""


@triton.jit
def _bound(part, depth, SPLIT: tl.constexpr):
    """Where a part of the depth begins, which is where the one before it ends."""
    return tl.minimum(part * tl.cdiv(depth, GRAIN) // SPLIT * GRAIN, depth)


@triton.jit
def _scaled(sums, scales, bias, rows, BIASED: tl.constexpr, dtype: tl.constexpr):
    """Sums ``[rows, tokens]`` times their rows' scales, plus bias, rounded once."""
    value = sums * tl.load(scales + rows)[:, None]
    if BIASED:
        value += tl.load(bias + rows).to(tl.float32)[:, None]
    return value.to(dtype)


@triton.jit
def _part(
    inputs,
    weights,
    rows,
    others,
    first_token,
    tokens,
    depth,
    begin,
    end,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    FEW: tl.constexpr,
    MORE: tl.constexpr,
    GATED: tl.constexpr,
    EVEN: tl.constexpr,
    STAGES: tl.constexpr,
    POLICY: tl.constexpr,
):
    """Float32 sums over a part of the depth, of rows and of others, `FEW` tokens and `MORE`."""
    columns = tl.arange(0, STEP)
    few = first_token + tl.arange(0, FEW)
    few_here = (few < tokens)[:, None]
    few_inputs = inputs + few.to(tl.int64)[:, None] * depth + columns[None, :]
    row_weights = weights + rows.to(tl.int64)[:, None] * depth + columns[None, :]
    few_sums = tl.zeros((ROWS, FEW), tl.float32)
    more_sums = few_sums
    if MORE > 0:
        more = first_token + FEW + tl.arange(0, MORE)
        more_here = (more < tokens)[:, None]
        more_inputs = inputs + more.to(tl.int64)[:, None] * depth + columns[None, :]
        more_sums = tl.zeros((ROWS, MORE), tl.float32)
    few_others, more_others = few_sums, more_sums
    if GATED:
        other_weights = weights + others.to(tl.int64)[:, None] * depth + columns[None, :]
    for start in tl.range(begin, end, STEP, num_stages=STAGES):
        if EVEN:
            x = tl.load(few_inputs + start, mask=few_here, other=0.0)
            w = tl.load(row_weights + start, eviction_policy=POLICY)
        else:
            within = (start + columns < depth)[None, :]
            x = tl.load(few_inputs + start, mask=few_here & within, other=0.0)
            w = tl.load(row_weights + start, mask=within, other=0, eviction_policy=POLICY)
        w = w.to(x.dtype)
        few_sums = tl.dot(w, tl.trans(x), few_sums)
        if MORE > 0:
            if EVEN:
                y = tl.load(more_inputs + start, mask=more_here, other=0.0)
            else:
                y = tl.load(more_inputs + start, mask=more_here & within, other=0.0)
            more_sums = tl.dot(w, tl.trans(y), more_sums)
        if GATED:
            if EVEN:
                v = tl.load(other_weights + start, eviction_policy=POLICY)
            else:
                v = tl.load(other_weights + start, mask=within, other=0, eviction_policy=POLICY)
            v = v.to(x.dtype)
            few_others = tl.dot(v, tl.trans(x), few_others)
            if MORE > 0:
                more_others = tl.dot(v, tl.trans(y), more_others)
    return few_sums, more_sums, few_others, more_others


@triton.jit
def _write(
    sums,
    others,
    scales,
    bias,
    out,
    partial,
    part,
    rows,
    other_rows,
    token,
    tokens,
    width,
    PARTIAL: tl.constexpr,
    GATED: tl.constexpr,
    BIASED: tl.constexpr,
):
    """Sums ``[rows, tokens]`` to where they belong, transposed."""
    dtype: tl.constexpr = out.dtype.element_ty
    here = (token < tokens)[:, None]
    if PARTIAL:
        place = (part * tokens + token).to(tl.int64)[:, None] * width + rows[None, :]
        tl.store(partial + place, tl.trans(sums), mask=here & (rows < width)[None, :])
    elif GATED:
        half = width // 2
        spots = tl.minimum(rows, half - 1)
        gate = _scaled(sums, scales, bias, spots, BIASED, dtype).to(tl.float32)
        up = _scaled(others, scales, bias, half + spots, BIASED, dtype)
        # Rounded where the plain model rounds, so that both see the same activations.
        value = (gate / (1.0 + tl.exp(-gate))).to(dtype) * up
        place = token.to(tl.int64)[:, None] * half + rows[None, :]
        tl.store(out + place, tl.trans(value), mask=here & (rows < half)[None, :])
    else:
        value = _scaled(sums, scales, bias, tl.minimum(rows, width - 1), BIASED, dtype)
        place = token.to(tl.int64)[:, None] * width + rows[None, :]
        tl.store(out + place, tl.trans(value), mask=here & (rows < width)[None, :])


@triton.jit(do_not_specialize=["tokens"])
def multiply(
    inputs,
    weights,
    scales,
    bias,
    out,
    partial,
    tokens,
    width,
    depth,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    SPLIT: tl.constexpr,
    FEW: tl.constexpr,
    MORE: tl.constexpr,
    PARTIAL: tl.constexpr,
    GATED: tl.constexpr,
    BIASED: tl.constexpr,
    EVEN: tl.constexpr,
    STAGES: tl.constexpr,
    POLICY: tl.constexpr,
    FETCHED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One tile of the product: FEW + MORE tokens by ROWS rows of the weights.

    Grid: tiles of tokens, tiles of rows, and SPLIT if PARTIAL, else 1.

    inputs ``[tokens, depth]``; weights int8 ``[width, depth]``; scales float32 ``[width]``; bias ``[width]``.
    PARTIAL: float32 sums of one part go to partial ``[SPLIT, tokens, width]``, unscaled, for `collect`.
    GATED: rows of the first half of the width are gates for those of the second, out ``[tokens, width / 2]``;
    not with PARTIAL. STEP divides GRAIN; EVEN: and the depth.
    Otherwise out ``[tokens, width]``.
    """
    first_token = tl.program_id(0) * (FEW + MORE)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(2)
    usable = width
    if GATED:
        usable = width // 2
    spots = tl.minimum(rows, usable - 1)
    begin = 0
    end = depth
    if PARTIAL:
        begin = _bound(part, depth, SPLIT)
        end = _bound(part + 1, depth, SPLIT)
    if EARLY:
        gdc_launch_dependents()
        if FETCHED > 0:
            # The weights need not wait for this pass's inputs.
            fetch(weights + spots.to(tl.int64) * depth + begin, FETCHED)
            if GATED:
                fetch(weights + (usable + spots).to(tl.int64) * depth + begin, FETCHED)
        gdc_wait()
    if PARTIAL or SPLIT == 1:
        few, more, few_others, more_others = _part(
            inputs, weights, spots, usable + spots, first_token, tokens, depth, begin, end,
            ROWS, STEP, FEW, MORE, GATED, EVEN, STAGES, POLICY,
        )  # fmt: skip
    else:
        few = tl.zeros((ROWS, FEW), tl.float32)
        more = few
        if MORE > 0:
            more = tl.zeros((ROWS, MORE), tl.float32)
        few_others, more_others = few, more
        for index in tl.range(0, SPLIT):
            a, b, c, d = _part(
                inputs, weights, spots, usable + spots, first_token, tokens, depth,
                _bound(index, depth, SPLIT), _bound(index + 1, depth, SPLIT),
                ROWS, STEP, FEW, MORE, GATED, EVEN, STAGES, POLICY,
            )  # fmt: skip
            few += a
            if MORE > 0:
                more += b
            if GATED:
                few_others += c
                if MORE > 0:
                    more_others += d
    token = first_token + tl.arange(0, FEW)
    _write(
        few, few_others, scales, bias, out, partial, part, rows, usable + rows, token, tokens, width,
        PARTIAL, GATED, BIASED,
    )  # fmt: skip
    if MORE > 0:
        token = first_token + FEW + tl.arange(0, MORE)
        _write(
            more, more_others, scales, bias, out, partial, part, rows, usable + rows, token, tokens, width,
            PARTIAL, GATED, BIASED,
        )  # fmt: skip


@triton.jit(do_not_specialize=["tokens"])
def collect(
    partial,
    scales,
    bias,
    out,
    tokens,
    width,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
    BIASED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Adds what `multiply` left in parts; one program for each token and BLOCK columns of the output.

    partial float32 ``[SPLIT, tokens, width]``; out ``[tokens, width]``.
    """
    token = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < width
    stride = tokens.to(tl.int64) * width
    place = partial + token * width + rows
    after_predecessor(EARLY)
    sums = tl.load(place, mask=inside, other=0.0)
    for part in tl.static_range(1, SPLIT):
        sums += tl.load(place + part * stride, mask=inside, other=0.0)
    value = _scaled(sums[:, None], scales, bias, tl.minimum(rows, width - 1), BIASED, out.dtype.element_ty)
    tl.store(out + token * width + rows[:, None], value, mask=inside[:, None])
