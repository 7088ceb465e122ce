"""Weights rounded to int8 stay near the model's, the head stays, all paths serve the same rounded model."""

import copy
from types import SimpleNamespace

import pytest
import torch
from families import SIZES, VOCABULARY, loaded
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.decoding.cpu.model import CPUModel
from goodspeed_runtime.decoding.cpu.native_model import NativeModel
from goodspeed_runtime.decoding.int8 import Int8Matrix, round_in_place, rounded_linears
from goodspeed_runtime.decoding.packed import PackedModel
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.serving import serve
from goodspeed_runtime.models.dtype import fingerprint_with

MODELS = {
    "Llama": ("Llama", {}),
    "Llama with a tied head": ("Llama", {"tie_word_embeddings": True}),
    "Qwen2": ("Qwen2", {}),
    "Gemma": ("Gemma", {}),
}


def build(name):
    family, options = MODELS[name]
    return loaded(family, **options).module


@given(
    st.integers(1, 20),
    st.integers(1, 40),
    st.sampled_from([1e-6, 1.0, 1e4]),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_a_weight_is_off_by_at_most_half_the_scale_of_its_row(rows, columns, size, seed, sparse):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    if sparse:
        matrix[::2] = 0
    rounded = Int8Matrix.of(matrix)
    assert rounded.values.dtype == torch.int8
    assert int(rounded.values.abs().max()) <= 127
    assert (rounded.scales > 0).all()
    error = (rounded.dequantised() - matrix).abs()
    assert (error <= 0.501 * rounded.scales[:, None]).all()
    largest = matrix.abs().amax(1)
    torch.testing.assert_close(rounded.dequantised().abs().amax(1), largest)


def test_rows_have_scales_of_their_own():
    matrix = torch.tensor([[1.0, -0.5], [1000.0, 3.0]])
    rounded = Int8Matrix.of(matrix)
    torch.testing.assert_close(rounded.scales * 127, torch.tensor([1.0, 1000.0]))


@pytest.mark.parametrize("family", MODELS)
def test_all_linear_layers_are_rounded_but_the_head_and_nothing_else(family):
    module = build(family)
    before = copy.deepcopy(module.state_dict())
    rounded = {id(linear.weight) for linear in rounded_linears(module)}
    round_in_place(module)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, value in module.named_parameters() if id(value) in rounded}
    assert len(changed) == 7 * SIZES["num_hidden_layers"]


@pytest.mark.parametrize(
    ("family", "kinds"),
    [("Llama", (NativeModel, CPUModel)), ("Qwen2", (NativeModel, CPUModel)), ("Gemma", PackedModel)],
)
def test_a_server_on_the_cpu_gives_the_logits_of_the_rounded_model(family, kinds):
    plain = build(family)
    for linear in rounded_linears(plain):
        linear.weight.copy_(Int8Matrix.of(linear.weight).dequantised())
    tokens = torch.randint(0, VOCABULARY, (1, 30), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, unrounded = (module(tokens).logits[0] for module in (plain, build(family)))
    model = serve(
        SimpleNamespace(module=build(family)),
        slots=1,
        max_context=32,
        max_tokens=32,
        max_rows=32,
        weights="int8",
    )
    assert isinstance(model, kinds)
    logits = model.forward([Segment(model.acquire(), 0, tokens[0].tolist(), 30)])
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
    assert float((logits - unrounded).norm()) > 20 * float((logits - expected).norm())


def test_a_rounded_model_has_another_fingerprint():
    assert fingerprint_with("model", "abc") == "abc"
    assert fingerprint_with("int8", "abc") != "abc"
