"""Triton kernels that multiply inputs by int8 weights.

The weights are the rows of the matrix unit's tile and come through registers, where they
become the inputs' dtype, which is exact. Four of them are a word: those of the same place in the
quarters of 128 columns, so that each quarter of the words' bytes is a matrix. Sums are float32; a
row's scale is applied once, at the end.

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
"""Columns of a step; parts of the depth begin at multiples of it."""


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
def _unpacked(words, dtype: tl.constexpr, FAST: tl.constexpr):
    """The four bytes of each word as numbers, lowest first: of int32 ``[rows, n]`` four ``[rows, n]``."""
    if FAST:
        # Two words at a time. 0x43 above seven bits is 128 + those bits in bfloat16, above the eighth alone
        # 128 or 256: their difference is the byte as a signed number, exactly.
        a, b, c, d = tl.inline_asm_elementwise(
            """{
            .reg .b32 low, high, p0, p1, p2, p3, q0, q1, q2, q3;
            prmt.b32 low, $4, $5, 0x5140;
            prmt.b32 high, $4, $5, 0x7362;
            prmt.b32 p0, low, 0x43, 0x4140;
            prmt.b32 p1, low, 0x43, 0x4342;
            prmt.b32 p2, high, 0x43, 0x4140;
            prmt.b32 p3, high, 0x43, 0x4342;
            and.b32 q0, p0, 0xff80ff80;
            and.b32 q1, p1, 0xff80ff80;
            and.b32 q2, p2, 0xff80ff80;
            and.b32 q3, p3, 0xff80ff80;
            and.b32 p0, p0, 0xff7fff7f;
            and.b32 p1, p1, 0xff7fff7f;
            and.b32 p2, p2, 0xff7fff7f;
            and.b32 p3, p3, 0xff7fff7f;
            sub.bf16x2 $0, p0, q0;
            sub.bf16x2 $1, p1, q1;
            sub.bf16x2 $2, p2, q2;
            sub.bf16x2 $3, p3, q3;
            }""",
            "=r,=r,=r,=r,r,r",
            [words],
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=2,
        )
    else:
        a = ((words << 24) >> 24).to(dtype)
        b = ((words << 16) >> 24).to(dtype)
        c = ((words << 8) >> 24).to(dtype)
        d = (words >> 24).to(dtype)
    return a, b, c, d


@triton.jit
def _quarter(places, start, columns, here, depth, EVEN: tl.constexpr):
    """A quarter of a step of some tokens' inputs, zeros where there are none, ``[quarter, tokens]``."""
    if EVEN:
        x = tl.load(places + start, mask=here, other=0.0)
    else:
        within = (columns + start < depth)[None, :]
        x = tl.load(places + start, mask=here & within, other=0.0)
    return tl.trans(x)


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
    FEW: tl.constexpr,
    MORE: tl.constexpr,
    GATED: tl.constexpr,
    FAST: tl.constexpr,
    EVEN: tl.constexpr,
    STAGES: tl.constexpr,
    POLICY: tl.constexpr,
):
    """Float32 sums over a part of the depth, of rows and of others, `FEW` tokens and `MORE`."""
    quarter: tl.constexpr = GRAIN // 4
    columns = tl.arange(0, quarter)
    dtype: tl.constexpr = inputs.dtype.element_ty
    pitch = tl.cdiv(depth, GRAIN) * quarter
    few = first_token + tl.arange(0, FEW)
    few_here = (few < tokens)[:, None]
    few_inputs = inputs + few.to(tl.int64)[:, None] * depth + columns[None, :]
    row_weights = weights + rows.to(tl.int64)[:, None] * pitch + columns[None, :]
    few_sums = tl.zeros((ROWS, FEW), tl.float32)
    more_sums = few_sums
    if MORE > 0:
        more = first_token + FEW + tl.arange(0, MORE)
        more_here = (more < tokens)[:, None]
        more_inputs = inputs + more.to(tl.int64)[:, None] * depth + columns[None, :]
        more_sums = tl.zeros((ROWS, MORE), tl.float32)
    few_others, more_others = few_sums, more_sums
    if GATED:
        other_weights = weights + others.to(tl.int64)[:, None] * pitch + columns[None, :]
    for start in tl.range(begin, end, GRAIN, num_stages=STAGES):
        words = tl.load(row_weights + start // 4, eviction_policy=POLICY)
        a, b, c, d = _unpacked(words, dtype, FAST)
        x0 = _quarter(few_inputs, start, columns, few_here, depth, EVEN)
        x1 = _quarter(few_inputs, start + quarter, columns, few_here, depth, EVEN)
        x2 = _quarter(few_inputs, start + 2 * quarter, columns, few_here, depth, EVEN)
        x3 = _quarter(few_inputs, start + 3 * quarter, columns, few_here, depth, EVEN)
        few_sums = tl.dot(a, x0, few_sums)
        few_sums = tl.dot(b, x1, few_sums)
        few_sums = tl.dot(c, x2, few_sums)
        few_sums = tl.dot(d, x3, few_sums)
        if MORE > 0:
            y0 = _quarter(more_inputs, start, columns, more_here, depth, EVEN)
            y1 = _quarter(more_inputs, start + quarter, columns, more_here, depth, EVEN)
            y2 = _quarter(more_inputs, start + 2 * quarter, columns, more_here, depth, EVEN)
            y3 = _quarter(more_inputs, start + 3 * quarter, columns, more_here, depth, EVEN)
            more_sums = tl.dot(a, y0, more_sums)
            more_sums = tl.dot(b, y1, more_sums)
            more_sums = tl.dot(c, y2, more_sums)
            more_sums = tl.dot(d, y3, more_sums)
        if GATED:
            words = tl.load(other_weights + start // 4, eviction_policy=POLICY)
            a, b, c, d = _unpacked(words, dtype, FAST)
            few_others = tl.dot(a, x0, few_others)
            few_others = tl.dot(b, x1, few_others)
            few_others = tl.dot(c, x2, few_others)
            few_others = tl.dot(d, x3, few_others)
            if MORE > 0:
                more_others = tl.dot(a, y0, more_others)
                more_others = tl.dot(b, y1, more_others)
                more_others = tl.dot(c, y2, more_others)
                more_others = tl.dot(d, y3, more_others)
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
    SPLIT: tl.constexpr,
    FEW: tl.constexpr,
    MORE: tl.constexpr,
    PARTIAL: tl.constexpr,
    GATED: tl.constexpr,
    BIASED: tl.constexpr,
    FAST: tl.constexpr,
    EVEN: tl.constexpr,
    STAGES: tl.constexpr,
    POLICY: tl.constexpr,
    FETCHED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One tile of the product: FEW + MORE tokens by ROWS rows of the weights.

    Grid: tiles of tokens, tiles of rows, and SPLIT if PARTIAL, else 1.

    inputs ``[tokens, depth]``; weights int32 ``[width, depth / 4]``, each row filled up with zeros to whole
    steps; scales float32 ``[width]``; bias ``[width]``.
    PARTIAL: float32 sums of one part go to partial ``[SPLIT, tokens, width]``, unscaled, for `collect`.
    GATED: rows of the first half of the width are gates for those of the second, out ``[tokens, width / 2]``;
    not with PARTIAL.
    Otherwise out ``[tokens, width]``. FAST: by instructions for bfloat16; EVEN: GRAIN divides the depth.
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
            pitch = tl.cdiv(depth, GRAIN) * (GRAIN // 4)
            fetch(weights + spots.to(tl.int64) * pitch + begin // 4, FETCHED)
            if GATED:
                fetch(weights + (usable + spots).to(tl.int64) * pitch + begin // 4, FETCHED)
        gdc_wait()
    if PARTIAL or SPLIT == 1:
        few, more, few_others, more_others = _part(
            inputs, weights, spots, usable + spots, first_token, tokens, depth, begin, end,
            ROWS, FEW, MORE, GATED, FAST, EVEN, STAGES, POLICY,
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
                ROWS, FEW, MORE, GATED, FAST, EVEN, STAGES, POLICY,
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
