"""With batch invariance a sequence's logits have the same bits whatever shares its passes."""

import numpy as np
import pytest
import torch
from families import FAMILIES, OURS, VOCABULARY, loaded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goodspeed_runtime.decoding.cpu.linear import can_prepack
from goodspeed_runtime.decoding.cpu.model import CPUModel
from goodspeed_runtime.decoding.packed import PackedModel
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.tiles import TILE_ROWS, check_rows, tiles

CONTEXT = 96
TEXT = np.random.default_rng(0).integers(0, VOCABULARY, CONTEXT).astype(np.int32)
WIDE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "num_hidden_layers": 2,
    "vocab_size": 3000,
    "initializer_range": 0.08,
}
"""Products as large as a small model's: processors choose other kernels for them than for tiny ones."""
MODELS = [
    *((family, PackedModel, {}) for family in FAMILIES),
    *((family, CPUModel, {}) for family in OURS),
    ("Llama", PackedModel, WIDE),
    ("Llama", CPUModel, WIDE),
]
CASES = [
    *((*model, dtype, 1) for model in MODELS for dtype in (torch.float32, torch.bfloat16)),
    *((*model, dtype, 2) for model in MODELS[-2:] for dtype in (torch.float32, torch.bfloat16)),
    ("Gemma 2", PackedModel, {}, torch.float32, 2),
]


def name(case):
    family, kind, sizes, dtype, threads = case
    return f"{'wide ' if sizes else ''}{family}-{kind.__name__}-{str(dtype)[6:]}-{threads} threads"


@pytest.fixture(scope="module", params=CASES, ids=name)
def model(request):
    family, kind, sizes, dtype, threads = request.param
    if not can_prepack(dtype):
        pytest.skip(f"this processor multiplies no {dtype}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    yield taken(kind(loaded(family, dtype, **sizes), slots=5, max_context=CONTEXT, batch_invariant=True))
    torch.set_num_threads(before)


def taken(model):
    for _ in range(model.cache.slots):
        model.acquire()
    return model


@pytest.fixture(scope="module")
def alone(model):
    """Logits at every place of `TEXT`, one token a pass."""
    model.lengths[0] = 0
    return torch.cat([model.forward([Segment(0, at, TEXT[at : at + 1], 1)]) for at in range(CONTEXT)])


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_sequences_logits_have_the_same_bits_whatever_shares_its_passes(model, alone, data):
    mine = data.draw(st.integers(0, 4))
    others = sorted(set(range(5)) - {mine})
    tokens = np.random.default_rng(data.draw(st.integers(0, 1000)))
    for slot in range(5):
        model.lengths[slot] = 0
    at = 0
    while at < CONTEXT:
        count = data.draw(st.sampled_from([1, 1, 3, 5, 8, TILE_ROWS, 33, CONTEXT]))
        count = min(count, CONTEXT - at)
        segments = [Segment(mine, at, TEXT[at : at + count], count)]
        for slot in others:
            fed = min(data.draw(st.sampled_from([0, 1, 4, 9, 40])), CONTEXT - model.lengths[slot])
            if fed:
                ids = tokens.integers(0, VOCABULARY, fed)
                segments.append(Segment(slot, model.lengths[slot], ids, data.draw(st.integers(0, fed))))
        order = data.draw(st.permutations(range(len(segments))))
        segments = [segments[i] for i in order]
        place = order.index(0)
        skipped = sum(segment.logit_rows for segment in segments[:place])
        logits = model.forward(segments)[skipped : skipped + count]
        assert torch.equal(logits, alone[at : at + count])
        at += count


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, PackedModel) for family in FAMILIES), *((family, CPUModel) for family in OURS)],
)
def test_tiles_give_the_plain_models_logits(family, kind):
    plain = loaded(family).module
    if "attn_logit_softcapping" in FAMILIES[family][2]:
        plain.set_attn_implementation("eager")  # some releases choose one that leaves the cap out
    with torch.inference_mode():
        expected = plain(input_ids=torch.from_numpy(TEXT[None].astype(np.int64))).logits[0].float()
    model = taken(kind(loaded(family), slots=1, max_context=CONTEXT, batch_invariant=True))
    logits = model.forward([Segment(0, 0, TEXT, CONTEXT)])
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("kind", [PackedModel, CPUModel])
def test_without_it_they_do_depend_on_the_batch(kind):
    """Or the tests above would prove nothing; where a processor needs no tiles, so much the better."""
    model = taken(kind(loaded("Llama", **WIDE), slots=2, max_context=CONTEXT))
    together = model.forward([Segment(0, 0, TEXT, CONTEXT)])
    model.lengths[0] = 0
    alone = torch.cat([model.forward([Segment(0, at, TEXT[at : at + 1], 1)]) for at in range(CONTEXT)])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)
    if torch.equal(together, alone):
        pytest.skip("this processor adds up in one order whatever the batch")


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50), st.integers(0, 9)), min_size=1, max_size=6),
    st.integers(1, 20),
)
def test_tiles_hold_every_token_and_every_row_of_logits_once_and_in_order(shapes, rows):
    segments = [
        Segment(slot, start, list(range(100 * slot, 100 * slot + count)), min(wanted, count))
        for slot, (count, wanted, start) in enumerate(shapes)
    ]
    cut = tiles(segments, rows)
    assert all(sum(len(s.tokens) for s in tile) == rows for tile in cut[:-1])
    assert 0 < sum(len(s.tokens) for s in cut[-1]) <= rows
    pieces = [piece for tile in cut for piece in tile]
    assert [t for p in pieces for t in p.tokens] == [t for s in segments for t in s.tokens]
    assert all(p.start == segments[p.slot].start + p.tokens[0] - 100 * p.slot for p in pieces)
    assert [t for p in pieces for t in p.tokens[len(p.tokens) - p.logit_rows :]] == [
        t for s in segments for t in s.tokens[len(s.tokens) - s.logit_rows :]
    ]


def test_where_rows_of_one_tile_differ_it_is_refused():
    places = torch.arange(float(TILE_ROWS))[:, None]
    with pytest.raises(ValueError, match="batches cannot be made not to matter here"):
        check_rows(lambda x: x + places, 8, torch.float32, torch.device("cpu"))
