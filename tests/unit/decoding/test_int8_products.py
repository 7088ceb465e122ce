"""Products by int8 weights are those of the dequantised weights, and tokens do not meet in them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from goodspeed_runtime.decoding.fused.int8_products import (
    FEW_TOKENS,
    Int8Product,
    PackedMatrix,
    Tiling,
    blocks,
    quantised,
    tiling_of,
)
from goodspeed_runtime.decoding.fused.weights import NotFusableError
from goodspeed_runtime.decoding.int8 import Int8Matrix, rounded_linears

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
# Widths and depths: of the 8b and 14b shapes, whole and broken tiles, depths that no step divides.
SHAPES = [
    (6144, 4096),
    (4096, 4096),
    (4096, 12288),
    (5120, 17408),
    (960, 576),
    (576, 1536),
    (304, 72),
    (40000, 512),
]
GATED = [(24576, 4096), (34816, 5120), (3072, 576), (96, 200)]
COUNTS = [1, 5, 16, 17, 33, 48, 64, 80, 95, FEW_TOKENS, 97, 320]


@given(st.integers(1, FEW_TOKENS))
def test_two_blocks_hold_a_small_pass_with_less_than_sixteen_places_to_spare(tokens):
    few, more = blocks(tokens)
    assert tokens <= few + more <= -(-tokens // 16) * 16
    assert all(block & (block - 1) == 0 for block in (few, more))


@given(st.integers(1, 60000), st.integers(1, 30000), st.integers(2, 160))
def test_parts_of_the_depth_are_not_tiny_and_gates_stay_whole(width, depth, processors):
    assert Tiling.of(width, depth, processors, gated=True).split == 1
    split = Tiling.of(width, depth, processors, gated=False).split
    assert split == 1 or depth / split > 3 * 128


def test_an_h100_is_filled_by_the_narrow_products_of_an_eight_billion_weight_model():
    assert [Tiling.of(4096, depth, 132, gated=False).split for depth in (4096, 12288)] == [4, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_that_no_matrix_unit_takes_are_refused_before_the_module_is_touched(dtype):
    module = torch.nn.Linear(4, 4).to(dtype)
    with pytest.raises(NotFusableError, match="bfloat16 or float16"):
        quantised(module, 16)
    assert module.weight.shape == (4, 4)


@given(st.integers(1, 5), st.integers(1, 300))
def test_each_byte_of_a_step_of_words_is_a_quarter_of_its_columns(rows, depth):
    values = torch.randint(-127, 128, (rows, depth)).to(torch.int8)
    packed = PackedMatrix.of(Int8Matrix(values, torch.ones(rows)))
    columns = torch.arange(depth)
    words = packed.words[:, columns // 128 * 32 + columns % 32].long()
    found = (words >> (8 * (columns % 128 // 32))) & 0xFF
    assert torch.equal(found, values.long() & 0xFF)
    assert packed.words.view(torch.int8).count_nonzero() == values.count_nonzero()


def test_a_module_gives_up_the_matrices_that_are_rounded():
    config = LlamaConfig(
        vocab_size=20, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    module = LlamaForCausalLM(config).eval().bfloat16()
    query, key, value, output, gate, up, down = (
        linear.weight.clone() for linear in list(rounded_linears(module))[:7]
    )
    weights, layers = quantised(module, 16)
    first = layers[0]
    for matrix, expected in (
        (first.query_key_value, torch.cat((query, key, value))),
        (first.output, output),
        (first.gate_up, torch.cat((gate, up))),
        (first.down, down),
    ):
        rounded = PackedMatrix.of(Int8Matrix.of(expected))
        assert torch.equal(matrix.words, rounded.words)
        assert torch.equal(matrix.scales, rounded.scales)
    assert sum(linear.weight.numel() for linear in rounded_linears(module)) == 0
    assert sum(layer.query_key_value.numel() + layer.down.numel() for layer in weights.layers) == 0
    assert len(weights.layers) == len(layers)


def operands(width, depth, tokens, dtype=torch.bfloat16):
    generator = torch.Generator("cuda").manual_seed(width + depth)
    weights = torch.randn(width, depth, device="cuda", generator=generator) * depth**-0.5
    bias = torch.randn(width, device="cuda", generator=generator).to(dtype)
    inputs = torch.randn(tokens, depth, device="cuda", generator=generator)
    return Int8Matrix.of(weights), inputs.to(dtype), bias


def product(matrix, inputs, tokens, *, gated=False, **options):
    width = matrix.values.shape[0]
    matrix = PackedMatrix.of(matrix)
    size = tiling_of(matrix, gated=gated).split * FEW_TOKENS * width
    partial = torch.full((size,), float("nan"), device="cuda")
    out = torch.full(
        (tokens, width // 2 if gated else width), float("nan"), device="cuda", dtype=inputs.dtype
    )
    early = torch.cuda.get_device_capability() >= (9, 0)
    Int8Product(matrix, inputs, partial, gated=gated, early=early, **options).into(out, tokens)
    return out


def distance(out, expected):
    return float((out.double() - expected).norm() / expected.norm())


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 3e-3), (torch.float16, 4e-4)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_right_to_the_rounding_of_their_output(shape, dtype, error, biased):
    matrix, inputs, bias = operands(*shape, max(COUNTS), dtype)
    for tokens in COUNTS:
        expected = inputs[:tokens].double() @ matrix.dequantised().double().t()
        if biased:
            expected += bias.double()
        out = product(matrix, inputs, tokens, bias=bias if biased else None)
        assert distance(out, expected) < error, tokens


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("shape", GATED)
def test_a_gate_is_rounded_where_the_plain_model_rounds(shape):
    matrix, inputs, _ = operands(*shape, max(COUNTS))
    for tokens in COUNTS:
        both = (inputs[:tokens].double() @ matrix.dequantised().double().t()).bfloat16()
        gate, up = both.split(shape[0] // 2, dim=1)
        expected = torch.nn.functional.silu(gate) * up
        assert distance(product(matrix, inputs, tokens, gated=True), expected.double()) < 3e-3, tokens


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("shape", "gated"),
    [((6144, 4096), False), ((4096, 12288), False), ((576, 1536), False), ((24576, 4096), True)],
)
def test_a_tokens_result_has_the_same_bits_whoever_shares_the_pass(shape, gated):
    matrix, inputs, _ = operands(*shape, FEW_TOKENS)
    together = product(matrix, inputs, FEW_TOKENS, gated=gated)
    for tokens in (1, 5, 16, 40, 64, 80):
        assert torch.equal(product(matrix, inputs, tokens, gated=gated), together[:tokens])
        # Nor does it matter at which place a token stands.
        turned = inputs.roll(-tokens, 0).contiguous()
        rest = FEW_TOKENS - tokens
        assert torch.equal(product(matrix, turned, rest, gated=gated), together[tokens:])


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "gated"), [((4096, 12288), False), ((24576, 4096), True)])
def test_a_large_pass_adds_up_in_the_order_of_a_small_one(shape, gated):
    matrix, inputs, _ = operands(*shape, 320)
    together = product(matrix, inputs, 320, gated=gated)
    assert torch.equal(product(matrix, inputs, FEW_TOKENS, gated=gated), together[:FEW_TOKENS])


@needs_cuda
@pytest.mark.gpu
def test_a_captured_product_gives_the_same_again():
    matrix, inputs, _ = operands(4096, 4096, 40)
    expected = product(matrix, inputs, 40)
    out = torch.zeros_like(expected)
    matrix = PackedMatrix.of(matrix)
    partial = torch.zeros(tiling_of(matrix, gated=False).split * FEW_TOKENS * 4096, device="cuda")
    captured = Int8Product(matrix, inputs, partial)
    captured.into(out, 40)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.into(out, 40)
    for _ in range(3):
        out.fill_(float("nan"))
        graph.replay()
        assert torch.equal(out, expected)
