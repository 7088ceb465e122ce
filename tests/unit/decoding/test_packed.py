"""One packed pass gives every sequence the logits that transformers gives it alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import FAMILIES, OURS, VOCABULARY, build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from goodspeed_runtime.decoding.cpu import library
from goodspeed_runtime.decoding.cpu.model import CPUModel
from goodspeed_runtime.decoding.cpu.native_model import NativeModel
from goodspeed_runtime.decoding.fused.weights import NotFusableError
from goodspeed_runtime.decoding.packed import PackedModel, UnsupportedModelError
from goodspeed_runtime.decoding.round import SHORT_TOKENS, Segment

CONTEXT = 96


def native(variant):
    def make(loaded, **options):
        try:
            return NativeModel(loaded, variant=variant, **options)
        except NotFusableError as error:
            pytest.skip(str(error))

    make.__name__ = variant
    return make


KINDS = [CPUModel, *(native(variant) for variant in library.runnable())]


@pytest.fixture(
    scope="module",
    params=[
        *((family, PackedModel) for family in FAMILIES),
        *((family, kind) for kind in KINDS for family in OURS),
    ],
    ids=lambda param: f"{param[0]}-{param[1].__name__}",
)
def pair(request):
    """The same weights twice: packed, and as transformers runs them."""
    family, kind = request.param
    model, config, options = FAMILIES[family]
    plain, module = build(model, config, **options), build(model, config, **options)
    if "attn_logit_softcapping" in options:
        plain.set_attn_implementation("eager")  # some releases choose one that leaves the cap out
    return kind(SimpleNamespace(module=module), slots=5, max_context=CONTEXT), plain


@torch.inference_mode()
def alone(plain, tokens):
    return plain(input_ids=torch.tensor([tokens])).logits[0].float()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mix_of_prefills_drafts_and_rollbacks_gives_the_plain_models_logits(pair, data):
    packed, plain = pair
    tokens = np.random.default_rng(data.draw(st.integers(0, 1000)))
    held = {packed.acquire(): [] for _ in range(4)}
    packed.release(dropped := data.draw(st.sampled_from(sorted(held))))
    del held[dropped]  # leaves a hole among the slots, sometimes
    try:
        for _ in range(data.draw(st.integers(1, 4))):
            segments, expected = [], []
            for slot in data.draw(st.permutations(sorted(held))):
                kept = data.draw(st.integers(0, len(held[slot])))
                count = data.draw(st.sampled_from([0, 1, 3, 6, SHORT_TOKENS, SHORT_TOKENS + 8, CONTEXT]))
                count = min(count, CONTEXT - kept)
                if not count:
                    continue
                fed = tokens.integers(0, VOCABULARY, count).tolist()
                held[slot] = held[slot][:kept] + fed
                packed.lengths[slot] = kept
                rows = data.draw(st.integers(0, len(fed)))
                segments.append(Segment(slot, kept, np.array(fed), rows))
                expected.append(alone(plain, held[slot])[len(held[slot]) - rows :])
            if segments:
                logits = packed.forward(segments)
                assert logits.dtype == torch.float32
                torch.testing.assert_close(logits, torch.cat(expected), atol=2e-4, rtol=2e-4)
                assert all(packed.lengths[slot] == len(ids) for slot, ids in held.items())
    finally:
        for slot in held:
            packed.release(slot)


def test_a_pass_writes_only_the_places_of_its_tokens(pair):
    packed, _ = pair
    slot = packed.acquire()
    packed.forward([Segment(slot, 0, [1, 2, 3, 4], 0)])
    before = [keys.clone() for keys in packed.cache.keys]
    packed.lengths[slot] = 2
    packed.forward([Segment(slot, 2, [9], 1)])
    for keys, old in zip(packed.cache.keys, before, strict=True):
        changed = (keys != old).flatten(2).any(2).nonzero().tolist()
        assert changed == [[slot, 2]]
    packed.release(slot)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([], "at least one segment"),
        ([(0, 0, [], 0)], "logit rows of 0 tokens"),
        ([(0, 0, [1], 2)], "2 logit rows of 1 tokens"),
        ([(0, 1, [1], 1)], "starts at 1, but holds 0"),
        ([(0, 0, [1], 1), (0, 0, [2], 1)], "share a slot"),
        ([(5, 0, [1], 1)], r"slot 5 is outside 0\.\.4"),
        ([(0, 0, [VOCABULARY], 1)], "outside 0..49"),
        ([(0, 0, [-1], 1)], "outside 0..49"),
        ([(0, 0, [1] * (CONTEXT + 1), 1)], "exceed a context of 96"),
    ],
)
def test_segments_that_make_no_sense_are_refused_before_anything_is_written(pair, segments, message):
    packed, _ = pair
    with pytest.raises(ValueError, match=message):
        packed.forward([Segment(*segment) for segment in segments])
    assert packed.lengths == [0] * 5


@pytest.mark.parametrize(
    ("model", "config", "options", "message"),
    [
        (MambaForCausalLM, MambaConfig, {}, "MambaForCausalLM"),
        (GptOssForCausalLM, GptOssConfig, {"num_local_experts": 2}, "GptOssAttention passes 's_aux'"),
        (
            LlamaForCausalLM,
            LlamaConfig,
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            "dynamic",
        ),
    ],
)
def test_a_family_that_would_be_served_wrong_is_refused_at_load_by_name(model, config, options, message):
    module = build(model, config, **options)
    with pytest.raises(UnsupportedModelError, match=message):
        PackedModel(SimpleNamespace(module=module), slots=1, max_context=8)


def test_a_context_beyond_the_models_positions_is_refused():
    module = build(LlamaForCausalLM, LlamaConfig)
    with pytest.raises(ValueError, match="max_context is 129, but LlamaForCausalLM has 128 positions"):
        PackedModel(SimpleNamespace(module=module), slots=1, max_context=129)
