"""The streaming products give what cuBLAS gives, divide every matrix wholly, and keep tokens apart."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.decoding.fused.products import MOST_TOKENS, Division, Product, fits

needs_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a Hopper card",
)
# Widths and depths: whole and broken tiles, split and whole depths, several waves.
SHAPES = [(4096, 4096), (6144, 4096), (576, 1536), (960, 576), (304, 72), (5120, 17408), (40000, 512)]


@given(st.integers(1, 4000), st.integers(1, 2000), st.integers(2, 160), st.booleans())
def test_every_row_and_step_belongs_to_one_block(sixteens, eights, processors, gated):
    width, depth = 16 * sixteens, 8 * eights
    division = Division.of(width, depth, processors, gated=gated)
    tiles = division.blocks // division.split
    assert division.blocks % (division.split * division.sharing) == 0
    assert division.rows * tiles >= width > division.rows * (tiles - division.sharing)
    assert division.rows % 16 == 0
    assert division.rows % (8 * division.split) == 0
    # The copy engine takes at most 256 of a dimension, gated rows have two.
    assert division.rows <= (320 if gated else 256)
    assert division.split == 1 or not gated


def test_a_card_is_filled_by_the_products_of_an_eight_billion_weight_model():
    for width, depth, gated in ((6144, 4096, False), (24576, 4096, True), (4096, 12288, False)):
        assert Division.of(width, depth, 132, gated=gated).blocks == 128


def test_what_is_not_on_a_hopper_card_stays_with_cublas():
    assert not fits(torch.zeros(64, 64, dtype=torch.bfloat16))


def operands(width, depth, tokens, dtype):
    generator = torch.Generator("cuda").manual_seed(width + tokens)
    weights = torch.randn(width, depth, device="cuda", generator=generator) * depth**-0.5
    inputs = torch.randn(tokens, depth, device="cuda", generator=generator)
    return weights.to(dtype), inputs.to(dtype)


def product(weights, inputs, tokens, *, gated=False):
    width = weights.shape[0] // (2 if gated else 1)
    out = torch.full((tokens, width), float("nan"), device="cuda", dtype=weights.dtype)
    Product(weights, inputs, gated=gated).into(out, tokens)
    return out


def distance(out, expected):
    return float((out.double() - expected).norm() / expected.norm())


@needs_hopper
@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 3e-3), (torch.float16, 4e-4)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tokens", [1, 16, 33, 80, MOST_TOKENS])
def test_products_are_right_to_the_rounding_of_their_output(shape, tokens, dtype, error):
    weights, inputs = operands(*shape, tokens, dtype)
    assert distance(product(weights, inputs, tokens), inputs.double() @ weights.double().t()) < error


@needs_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(24576, 4096), (34816, 5120), (3072, 576), (96, 64)])
@pytest.mark.parametrize("tokens", [1, 24, 80, MOST_TOKENS])
def test_a_gate_is_rounded_where_the_plain_model_rounds(shape, tokens):
    weights, inputs = operands(*shape, tokens, torch.bfloat16)
    both = (inputs.double() @ weights.double().t()).bfloat16()
    gate, up = both.split(shape[0] // 2, dim=1)
    expected = torch.nn.functional.silu(gate) * up
    assert distance(product(weights, inputs, tokens, gated=True), expected.double()) < 3e-3


@needs_hopper
@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "gated"), [((4096, 4096), False), ((24576, 4096), True)])
def test_a_tokens_result_has_the_same_bits_whoever_shares_the_pass(shape, gated):
    weights, inputs = operands(*shape, MOST_TOKENS, torch.bfloat16)
    together = product(weights, inputs, MOST_TOKENS, gated=gated)
    for tokens in (1, 5, 40, 80):
        assert torch.equal(product(weights, inputs, tokens, gated=gated), together[:tokens])
