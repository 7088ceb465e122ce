"""The fused layers give every sequence the plain model's logits, and the fused test the same verdicts."""

import copy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import FAMILIES, OURS, build

from goodspeed_runtime.decoding.int8 import round_in_place, rounded_linears
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.verification import Request, verify, verify_by_parts
from goodspeed_runtime.protocol.wire import DraftBlock

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
VOCABULARY = 500
SLOTS, TOKENS, ROWS, CONTEXT = 6, 700, 60, 2500
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 3,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
OWN = {
    "Qwen2": {"sliding_window": 70},
    "Qwen3": {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128},
    "Mistral": {"sliding_window": 300},
}


def module_of(family, dtype=torch.float32, **sizes):
    model, config, options = FAMILIES[family]
    return build(model, config, **options | SIZES | OWN.get(family, {}) | sizes).cuda().to(dtype)


def fused(module, **options):
    from goodspeed_runtime.decoding.fused.model import FusedModel

    model = FusedModel(
        SimpleNamespace(module=module),
        slots=SLOTS,
        max_context=CONTEXT,
        max_tokens=TOKENS,
        max_rows=ROWS,
        **options,
    )
    for _ in range(SLOTS):
        model.acquire()
    return model


@torch.inference_mode()
def alone(plain, tokens, rows):
    logits = plain(input_ids=torch.tensor([tokens], device="cuda")).logits[0].float()
    return logits[len(tokens) - rows :]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("family", OURS)
def test_any_mix_of_prefills_drafts_and_rollbacks_gives_the_plain_models_logits(family, dtype, error):
    plain, model = module_of(family, dtype), fused(module_of(family, dtype))
    rng = np.random.default_rng(0)
    held = {slot: [] for slot in range(SLOTS)}
    for step in range(12):
        segments, expected, room = [], [], TOKENS
        for slot in rng.permutation(SLOTS).tolist():
            kept = max(0, len(held[slot]) - int(rng.integers(0, 3)))
            count = 650 if step < 3 and slot == 0 else int(rng.choice([1, 5, 8, 9, 40, 300]))
            count = min(count, room, CONTEXT - kept)
            if count < 1:
                continue
            fed = rng.integers(0, VOCABULARY, count).tolist()
            held[slot] = held[slot][:kept] + fed
            model.lengths[slot] = kept
            rows = min(count, int(rng.integers(0, 9)))
            segments.append(Segment(slot, kept, fed, rows))
            expected.append(alone(plain, held[slot], rows))
            room -= count
        logits, want = model.forward(segments), torch.cat(expected)
        assert ((logits - want).norm() <= error * want.norm()).all()
        assert model.lengths == [len(held[slot]) for slot in range(SLOTS)]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("family", OURS)
def test_int8_weights_give_the_logits_of_the_model_with_those_weights(family, dtype, error):
    # Of larger weights attention is so sharp that halves of any kind end up far from float32.
    small = {"initializer_range": 0.02}
    unrounded = module_of(family, **small)
    plain = copy.deepcopy(unrounded)
    round_in_place(plain)
    model = fused(module_of(family, dtype, **small), weights="int8")
    tokens = np.random.default_rng(3).integers(0, VOCABULARY, 600).tolist()
    fed, apart, unlike, size = 0, 0.0, 0.0, 0.0
    for count in (450, 97, 40, 5, 1):
        logits = model.forward([Segment(0, fed, tokens[fed : fed + count], min(count, 8))])
        fed += count
        want, other = (alone(module, tokens[:fed], min(count, 8)) for module in (plain, unrounded))
        apart += float((logits - want).square().sum())
        unlike += float((logits - other).square().sum())
        size += float(want.square().sum())
    assert apart <= error**2 * size
    # In float16 what is left is less than what rounding the weights does; bfloat16 hides that.
    assert dtype == torch.bfloat16 or apart <= 0.4 * unlike


def test_int8_weights_leave_no_other_copy_of_the_matrices():
    module = module_of("Llama", torch.bfloat16)
    fused(module, weights="int8")
    assert sum(linear.weight.numel() for linear in rounded_linears(module)) == 0


def test_by_int8_weights_a_sequence_gets_the_same_bits_whoever_shares_the_pass():
    model = fused(module_of("Qwen3", torch.bfloat16), weights="int8")
    tokens = np.random.default_rng(4).integers(0, VOCABULARY, 300).tolist()
    model.forward([Segment(0, 0, tokens[:295], 0)])
    mine = Segment(0, 295, tokens[295:], 5)
    first = model.forward([mine]).clone()
    for others in (1, 30, 90, 400):
        model.lengths[0] = 295
        again = model.forward([Segment(1, 0, (tokens * 2)[:others], 0), mine])
        model.lengths[1] = 0
        assert torch.equal(first, again), others


def test_what_shares_the_pass_does_not_change_how_a_sequence_attends():
    model = fused(module_of("Qwen3", torch.bfloat16))
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 1200).tolist()
    model.forward([Segment(0, 0, tokens[:600], 0)])
    model.forward([Segment(0, 600, tokens[600:1195], 0)])
    mine = Segment(0, 1195, tokens[1195:], 5)
    first = model.forward([mine, Segment(1, 0, tokens[:3], 0)]).clone()
    model.lengths[0], model.lengths[1] = 1195, 0
    again = model.forward([Segment(2, 0, tokens[:3], 0), mine])
    assert torch.equal(first, again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", OURS)
def test_with_batch_invariance_logits_have_the_same_bits_whatever_shares_the_pass(family, dtype):
    model = fused(module_of(family, dtype), batch_invariant=True)
    rng = np.random.default_rng(5)
    text = rng.integers(0, VOCABULARY, 1100).tolist()
    chunks = (Segment(0, at, text[at : at + 50], 50) for at in range(0, 1100, 50))
    alone = torch.cat([model.forward([chunk]).clone() for chunk in chunks])
    for mine in range(6):
        for slot in range(SLOTS):
            model.lengths[slot] = 0
        at = 0
        while at < len(text):
            count = min(int(rng.choice([1, 5, 8, 60, 300])), len(text) - at)
            rows = min(count, 20)
            segments = [Segment(mine, at, text[at : at + count], rows)]
            for slot in set(range(SLOTS)) - {mine}:
                fed = min(int(rng.choice([0, 1, 5, 40])), CONTEXT - model.lengths[slot])
                if fed:
                    ids = rng.integers(0, VOCABULARY, fed).tolist()
                    segments.append(Segment(slot, model.lengths[slot], ids, min(fed, 5)))
            segments = [segments[i] for i in rng.permutation(len(segments))]
            place = next(i for i, segment in enumerate(segments) if segment.slot == mine)
            skipped = sum(segment.logit_rows for segment in segments[:place])
            logits = model.forward(segments)[skipped : skipped + rows]
            at += count
            assert torch.equal(logits, alone[at - rows : at])


def test_a_beginning_is_copied_between_slots_on_the_device():
    model = fused(module_of("Llama"))
    for slot in range(SLOTS):
        model.release(slot)
    text = np.random.default_rng(6).integers(0, VOCABULARY, 300).astype(np.int32)
    first = model.acquire(text, "")
    expected = model.forward([Segment(first, 0, text, 5)]).clone()
    second = model.acquire(text[:-1], "")
    assert model.lengths[second] == 299
    logits = model.forward([Segment(second, 299, text[299:], 1)])
    torch.testing.assert_close(logits[0], expected[-1], atol=1e-3, rtol=1e-3)


def requests(rng):
    samplings = [
        Sampling(0.0),
        Sampling(1.0, seed=7),
        Sampling(0.7, 5, 0.9, 2**63 + 5),
        Sampling(1.0, 0, 0.8, 3),
        Sampling(1.3, 7, 1.0, 11),
    ]
    for index in range(300):
        columns = [[], [], [], []]
        for _ in range(int(rng.integers(0, 5))):
            size = int(rng.choice([0, 1, 6]))
            support = [int(t) for t in rng.choice(40, size, replace=False)]
            columns[0].append(support[0] if size else int(rng.integers(40)))
            columns[1].append(size)
            columns[2] += support
            columns[3] += rng.integers(1, 65535, size).tolist()
        draft = DraftBlock(*(np.array(column, dtype=np.int32) for column in columns))
        yield Request(20 + index, draft, samplings[index % len(samplings)])


@pytest.mark.parametrize("vocabulary", [40, 49152])
def test_verdicts_are_those_of_torchs_own_operations(vocabulary):
    rng = np.random.default_rng(2)
    batch = list(requests(rng))
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(sum(len(r.draft) + 1 for r in batch), vocabulary, generator=generator)
    logits[:, 3] = logits[:, 5] = logits[:, 7]  # ties, at thresholds too
    logits[:, :40] += 4
    row = 0
    for request in batch:  # many drafts are likely tokens, or nothing would be accepted
        for token in request.draft.tokens:
            logits[row, token] += float(rng.choice([0, 9]))
            row += 1
        row += 1
    logits[11, 2], logits[17, 4], logits[23] = float("nan"), float("inf"), float("-inf")
    here, there = verify_by_parts(logits, batch), verify(logits.cuda(), batch)
    assert here.accepted.sum() > 50
    assert (here.next_tokens == there.next_tokens).all()
    sound = here.next_tokens >= 0
    assert (here.accepted == there.accepted)[sound].all()
    # A token at the very edge of a nucleus may be in by one rounding and out by the other.
    np.testing.assert_allclose(here.soft_ratios[sound], there.soft_ratios[sound], rtol=2e-3)


def test_a_round_waits_for_nothing_but_its_verdicts():
    model = fused(module_of("Llama"))
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (3, 40)).tolist()
    model.forward([Segment(slot, 0, row[:20], 1) for slot, row in enumerate(tokens)])
    segments = [Segment(slot, 20, row[20:25], 5) for slot, row in enumerate(tokens)]
    draft = DraftBlock.point_masses([1, 2, 3, 4])
    batch = [Request(21, draft, Sampling(temperature, seed=3)) for temperature in (0.0, 1.0, 0.5)]
    verify(model.forward(segments), batch)  # whatever compiles or allocates has done so
    torch.cuda.synchronize()
    for slot in range(3):
        model.lengths[slot] = 20
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            verify(model.forward(segments), batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # The wait for the event behind the verdicts is not among these.
    assert not [w for w in waits if "synchroniz" in str(w.message)], [str(w) for w in waits]


@pytest.mark.parametrize(("tokens", "rows"), [(TOKENS + 1, 0), (ROWS + 1, ROWS + 1)])
def test_more_than_a_pass_takes_is_refused_before_anything_is_written(tokens, rows):
    model = fused(module_of("Llama"))
    with pytest.raises(ValueError, match="of one pass"):
        model.forward([Segment(0, 0, [1] * tokens, rows)])
    assert model.lengths == [0] * SLOTS
