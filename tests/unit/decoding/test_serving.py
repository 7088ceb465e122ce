"""A model is run by layers of our own where they compute exactly it, else by transformers'."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import VOCABULARY, build
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM

from goodspeed_runtime.decoding import packed
from goodspeed_runtime.decoding.cpu import library
from goodspeed_runtime.decoding.cpu import model as cpu
from goodspeed_runtime.decoding.cpu.linear import PrepackedLinear, can_prepack
from goodspeed_runtime.decoding.cpu.model import CPUModel
from goodspeed_runtime.decoding.cpu.native_model import NativeModel
from goodspeed_runtime.decoding.packed import PackedModel
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.serving import serve
from goodspeed_runtime.decoding.tiles import TILE_ROWS, tiles


def llama(**options):
    return build(LlamaForCausalLM, LlamaConfig, **options)


def served(module, **options):
    return serve(
        SimpleNamespace(module=module), slots=2, max_context=32, max_tokens=32, max_rows=32, **options
    )


@pytest.fixture
def no_library(monkeypatch):
    def refuse(variant=None):
        raise library.NoLibraryError("no C++ compiler here")

    monkeypatch.setattr(library, "load", refuse)


def has_library():
    try:
        return library.load() is not None
    except library.NoLibraryError:
        return False


@pytest.mark.skipif(not has_library(), reason="no compiled pass and no compiler")
def test_a_llama_on_the_cpu_runs_by_a_compiled_pass():
    assert isinstance(served(llama()), NativeModel)


def test_without_a_compiler_a_llama_runs_by_torchs_operations(no_library):
    assert isinstance(served(llama()), CPUModel)


@pytest.mark.parametrize(
    "module",
    [build(GemmaForCausalLM, GemmaConfig), llama(hidden_act="gelu"), llama(mlp_bias=True)],
    ids=["another family", "another activation", "biases"],
)
def test_what_they_do_not_compute_runs_by_transformers_layers(module):
    assert isinstance(served(module), PackedModel)


def test_without_prepacked_matrices_either_a_llama_runs_by_transformers_layers(monkeypatch, no_library):
    monkeypatch.setattr(cpu, "can_prepack", lambda dtype: False)
    assert isinstance(served(llama()), PackedModel)


@pytest.mark.parametrize(
    ("part", "module"),
    [(cpu, llama()), (packed, build(GemmaForCausalLM, GemmaConfig))],
    ids=["cpu", "packed"],
)
@pytest.mark.parametrize("invariant", [False, True])
def test_where_batches_are_not_to_matter_passes_are_cut_into_tiles(
    part, module, invariant, monkeypatch, no_library
):
    def cut(segments, rows):
        sizes.append(rows)
        return tiles(segments, rows)

    sizes = []
    monkeypatch.setattr(part, "tiles", cut)
    model = served(copy.deepcopy(module), batch_invariant=invariant)
    assert type(model).__module__ == part.__name__
    model.forward([Segment(model.acquire(), 0, list(range(30)), 1)])
    assert set(sizes) == ({TILE_ROWS} if invariant else set())


def test_a_dtype_that_is_not_multiplied_here_is_found_out_before_the_model_is_touched():
    assert not can_prepack(torch.int32)


@pytest.mark.skipif(not can_prepack(torch.bfloat16), reason="no prepacked bfloat16 on this processor")
def test_in_bfloat16_torchs_operations_round_every_step_where_transformers_rounds_it(no_library):
    module = llama().bfloat16()
    plain = copy.deepcopy(module)
    tokens = torch.randint(0, VOCABULARY, (1, 30), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = plain(tokens).logits[0].float()
    model = served(module)
    logits = model.forward([Segment(model.acquire(), 0, tokens[0].tolist(), 30)])
    # Sums in another order differ by a rounding here and there; a step that is not rounded, everywhere.
    assert (logits == expected).float().mean() > 0.5
    torch.testing.assert_close(logits, expected, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("kind", [CPUModel, NativeModel])
def test_matrices_are_held_once(kind):
    module = llama()
    kind(SimpleNamespace(module=module), slots=2, max_context=32)
    layers = module.model.layers
    assert sum(weight.numel() for weight in layers.parameters() if weight.ndim == 2) == 0


def test_a_prepacked_matrix_multiplies_like_a_plain_one():
    generator = torch.Generator().manual_seed(2)
    weight, bias, x = (torch.randn(shape, generator=generator) for shape in ((70, 33), (70,), (5, 33)))
    torch.testing.assert_close(PrepackedLinear(weight, bias)(x), x @ weight.T + bias)


def test_only_the_logits_that_matter_are_computed():
    ids = np.array([3, 4, 30, 49], dtype=np.int32)
    segment = Segment(0, 0, [5, 6, 7], 2)
    every, some = (
        served(llama()),
        served(llama(), token_ids=ids),
    )
    for model in (every, some):
        model.acquire()
    assert every.token_ids is None
    assert some.token_ids is ids
    torch.testing.assert_close(some.forward([segment]), every.forward([segment])[:, ids])
