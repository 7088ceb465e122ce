"""The compiled pass computes the model that it was given, whatever shares it and however it is stored."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from goodspeed_runtime.decoding.cpu import library
from goodspeed_runtime.decoding.cpu.native_model import NativeModel
from goodspeed_runtime.decoding.fused.weights import NotFusableError
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.models.integers import GROUP, Integers

VOCABULARY, CONTEXT, SLOTS = 70, 200, 4
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


def build(model=LlamaForCausalLM, config=LlamaConfig, **options):
    torch.manual_seed(0)
    return model(config(**SIZES | options)).eval().requires_grad_(requires_grad=False)


def native(module, variant=None, **loaded):
    try:
        model = NativeModel(
            SimpleNamespace(module=module, **loaded), slots=SLOTS, max_context=CONTEXT, variant=variant
        )
    except NotFusableError as error:
        pytest.skip(str(error))
    for _ in range(SLOTS):
        model.acquire()
    return model


def tokens_of(seed, count):
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).tolist()


@torch.inference_mode()
def plain_logits(module, tokens):
    return module(torch.tensor([tokens])).logits[0].float()


def random_integers(rng, rows, columns, *, nibbles):
    scales = (rng.uniform(0.01, 0.03, (rows, columns // GROUP)) / (1 if nibbles else 8)).astype(np.float16)
    if nibbles:
        return Integers(
            rng.integers(0, 16, (rows, columns), np.int8), scales, (-8 * scales).astype(np.float16)
        )
    return Integers(rng.integers(-127, 128, (rows, columns), np.int8), scales)


def as_integers(module, *, nibbles):
    """Gives a module weights that are integers in groups, and returns those."""
    rng, found = np.random.default_rng(0), {}
    for name, weight in module.named_parameters():
        if weight.ndim == 2 and "embed" not in name:
            found[name] = random_integers(rng, *weight.shape, nibbles=nibbles)
            weight.copy_(torch.from_numpy(found[name].weights()))
    return found


@pytest.mark.parametrize("variant", library.runnable())
@pytest.mark.parametrize("nibbles", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 5, 30])
def test_integers_are_multiplied_as_the_weights_they_stand_for(variant, nibbles, rows):
    module = build()
    integers = as_integers(module, nibbles=nibbles)
    plain = build()
    as_integers(plain, nibbles=nibbles)
    model = native(module, variant, integers=integers)
    tokens = tokens_of(1, rows)
    # Activations are rounded to 16 bits in groups of 32; bfloat16 would be off by a hundred times as much.
    expected = plain_logits(plain, tokens)
    logits = model.forward([Segment(0, 0, tokens, rows)])
    assert ((logits - expected).norm() / expected.norm()) < 2e-4
    assert model.weight_bytes < 0.3 * 4 * sum(i.values.size for i in integers.values())


def test_integers_that_are_not_the_models_are_not_used():
    module = build()
    others = {
        name: random_integers(np.random.default_rng(5), *weight.shape, nibbles=True)
        for name, weight in module.named_parameters()
        if weight.ndim == 2
    }
    model = native(module, integers=others)
    tokens = tokens_of(2, 9)
    torch.testing.assert_close(
        model.forward([Segment(0, 0, tokens, 9)]), plain_logits(build(), tokens), atol=2e-4, rtol=2e-4
    )


@pytest.fixture(scope="module", params=["float32", "bfloat16", "integers"])
def invariant(request):
    module = build()
    integers = as_integers(module, nibbles=True) if request.param == "integers" else {}
    if request.param != "float32":
        module = module.bfloat16()
    return native(module, integers=integers)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_sequences_logits_do_not_depend_on_its_company_or_its_chunks_to_the_last_bit(invariant, data):
    model = invariant
    count = data.draw(st.integers(2, 90))
    tokens = tokens_of(count, count)
    model.lengths[:] = [0] * SLOTS
    expected = model.forward([Segment(0, 0, tokens, count)]).clone()
    model.lengths[:] = [0] * SLOTS
    slot, found, done = data.draw(st.integers(0, SLOTS - 1)), [], 0
    while done < count:
        chunk = data.draw(st.integers(1, count - done))
        segments = [Segment(slot, done, tokens[done : done + chunk], chunk)]
        others = [other for other in range(SLOTS) if other != slot][: data.draw(st.integers(0, SLOTS - 1))]
        for other in others:
            more = tokens_of(other, data.draw(st.sampled_from([1, 4, 17])))
            model.lengths[other] = 0
            segments.insert(data.draw(st.integers(0, len(segments))), Segment(other, 0, more, 1))
        before = sum(s.logit_rows for s in segments[: [s.slot for s in segments].index(slot)])
        found.append(model.forward(segments)[before : before + chunk].clone())
        done += chunk
    assert torch.equal(torch.cat(found), expected)


def test_threads_change_no_bit():
    tokens, found = tokens_of(3, 60), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            model = native(build())
            for _ in range(5):
                model.lengths[0] = 0
                found.append(model.forward([Segment(0, 0, tokens, 60)]).clone())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(logits, found[0]) for logits in found)


@pytest.mark.parametrize(
    ("model", "config"), [(LlamaForCausalLM, LlamaConfig), (Qwen3ForCausalLM, Qwen3Config)]
)
def test_in_bfloat16_it_is_nearer_to_the_exact_model_than_transformers_is(model, config):
    exact, theirs = build(model, config).bfloat16().double(), build(model, config).bfloat16()
    ours = native(build(model, config).bfloat16())
    tokens = tokens_of(4, 150)
    expected = plain_logits(exact, tokens)
    error = (ours.forward([Segment(0, 0, tokens, 150)]) - expected).norm()
    assert error < (plain_logits(theirs, tokens) - expected).norm()


@pytest.mark.parametrize("integers", [True, False])
def test_numbers_that_are_not_finite_reach_the_logits_of_their_own_sequence_and_no_others(integers):
    module = build()
    module.model.embed_tokens.weight = torch.nn.Parameter(
        module.model.embed_tokens.weight.clone(), requires_grad=False
    )
    module.model.embed_tokens.weight[7] = float("nan")
    model = native(module, integers=as_integers(module, nibbles=True) if integers else {})
    logits = model.forward([Segment(0, 0, [1, 7, 2], 3), Segment(1, 0, [1, 2, 3], 3)])
    assert logits[1:3].isnan().all()
    assert logits[3:].isfinite().all()


def test_a_compiler_that_fails_is_told_of(monkeypatch, tmp_path):
    monkeypatch.setenv("GOODSPEED_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setattr(library, "_SOURCES", tmp_path / "nowhere")
    library._file_name.cache_clear()
    with pytest.raises(library.NoLibraryError, match="failed"):
        library.load.__wrapped__(None)
    library._file_name.cache_clear()
    assert not list(tmp_path.rglob("*.so"))
