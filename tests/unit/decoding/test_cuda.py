"""CUDA runs the same code to the same end, and waits for the device once a round, for the verdicts."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import FAMILIES, build

from goodspeed_runtime.decoding.coupling import verify_coupled
from goodspeed_runtime.decoding.noise import uniform, uniform_tensor
from goodspeed_runtime.decoding.packed import PackedModel, Segment
from goodspeed_runtime.decoding.proposing import propose
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.verification import Request, verify
from goodspeed_runtime.protocol.wire import DraftBlock
from tiny_llama import llama

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
VOCABULARY = 40
SAMPLINGS = [Sampling(0.0), Sampling(1.0, seed=7), Sampling(0.7, 5, 0.9, 2**63 + 5), Sampling(1.0, 0, 0.8, 3)]


def models():
    plain = llama(vocabulary=VOCABULARY)
    cuda = SimpleNamespace(module=llama(vocabulary=VOCABULARY).module.cuda())
    return PackedModel(plain, slots=4, max_context=64), PackedModel(cuda, slots=4, max_context=64)


def gemma(family):
    model, config, options = FAMILIES[family]
    module = build(model, config, **options, vocab_size=VOCABULARY).cuda()
    if "attn_logit_softcapping" in options:
        module.set_attn_implementation("eager")  # some releases choose one that leaves the cap out
    return module


def rounds():
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (4, 64))
    yield [Segment(0, 0, tokens[0, :40], 1), Segment(2, 0, tokens[2, :9], 1)]
    yield [
        Segment(1, 0, tokens[1, :20], 1),
        Segment(2, 7, tokens[2, 7:12], 4),
        Segment(0, 40, tokens[0, 40:43], 3),
    ]
    yield [Segment(slot, 9, tokens[slot, 9:14], 5) for slot in (2, 0, 1)]


def requests(count):
    drafts = [DraftBlock.point_masses([3, 1][: i % 3]) for i in range(count)]
    return [Request(20 + i, draft, SAMPLINGS[i % 4]) for i, draft in enumerate(drafts)]


def test_packed_passes_agree_with_the_cpu():
    cpu, cuda = models()
    for segments in rounds():
        torch.testing.assert_close(cuda.forward(segments).cpu(), cpu.forward(segments), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("Gemma")])
def test_families_without_fused_layers_give_the_plain_models_logits(family):
    plain = gemma(family)
    packed = PackedModel(SimpleNamespace(module=gemma(family)), slots=3, max_context=64)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (3, 50))
    held = [0, 0, 0]
    for counts in ((40, 9, 1), (5, 5, 5), (1, 8, 3)):
        fed = [
            tokens[slot, at : at + count] for slot, (at, count) in enumerate(zip(held, counts, strict=True))
        ]
        logits = packed.forward([Segment(slot, held[slot], ids, len(ids)) for slot, ids in enumerate(fed)])
        expected = []
        for slot, count in enumerate(counts):
            held[slot] += count
            ids = torch.from_numpy(tokens[slot : slot + 1, : held[slot]]).cuda()
            with torch.inference_mode():
                expected.append(plain(input_ids=ids).logits[0, -count:].float())
        torch.testing.assert_close(logits, torch.cat(expected), atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("Gemma")])
def test_with_batch_invariance_they_have_the_same_bits_whatever_shares_the_pass(family):
    packed = PackedModel(SimpleNamespace(module=gemma(family)), slots=3, max_context=64, batch_invariant=True)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (3, 60))
    alone = packed.forward([Segment(0, 0, tokens[0], 60)])
    for mine in range(3):
        at, others = 0, [slot for slot in range(3) if slot != mine]
        packed.lengths[0] = packed.lengths[1] = packed.lengths[2] = 0
        for count in (1, 5, 20, 3, 31):
            segments = [Segment(slot, 0, tokens[slot, : 7 * slot + count], 1) for slot in others]
            segments.insert(mine, Segment(mine, at, tokens[0, at : at + count], count))
            logits = packed.forward(segments)[mine : mine + count]
            assert torch.equal(logits, alone[at : at + count])
            at += count


def test_verdicts_and_proposals_are_those_of_the_cpu():
    batch = requests(200)
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(sum(len(r.draft) + 1 for r in batch), VOCABULARY, generator=generator)
    here, there = verify(logits, batch), verify(logits.cuda(), batch)
    assert (here.accepted == there.accepted).all()
    assert (here.next_tokens == there.next_tokens).all()
    np.testing.assert_allclose(here.soft_ratios, there.soft_ratios, rtol=1e-5)
    samplings = [SAMPLINGS[i % 4] for i in range(len(logits))]
    places = np.arange(len(logits))
    assert (
        propose(logits, samplings, places, places).tokens
        == propose(logits.cuda(), samplings, places, places).tokens
    ).all()


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 1000])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_coupled_verdicts_are_those_of_the_cpu(vocabulary, scale):
    count, length = 400, 3
    generator = torch.Generator().manual_seed(2)
    logits = scale * torch.randn(count * (length + 1), vocabulary, generator=generator)
    # Ties at every edge, zeros of both signs among them.
    logits[::5] = (4 * logits[::5]).round() / 4
    samplings = [SAMPLINGS[i % 4] for i in range(count)]
    one_by_one = [
        Request(20 + i + j, DraftBlock.point_masses([]), sampling)
        for i, sampling in enumerate(samplings)
        for j in range(length + 1)
    ]
    own = verify_coupled(logits, one_by_one).next_tokens.reshape(count, length + 1)
    # Of request i, the first i % 4 drafted tokens are the target's own.
    drafted = np.where(np.arange(length) < np.arange(count)[:, None] % 4, own[:, :length], 0)
    batch = [
        Request(20 + i, DraftBlock.point_masses(row), sampling)
        for i, (row, sampling) in enumerate(zip(drafted.tolist(), samplings, strict=True))
    ]
    here, there = verify_coupled(logits, batch), verify_coupled(logits.cuda(), batch)
    assert (here.accepted == there.accepted).all()
    assert (here.next_tokens == there.next_tokens).all()
    np.testing.assert_allclose(here.soft_ratios, there.soft_ratios, rtol=1e-12)
    assert set(here.accepted.tolist()) == {0, 1, 2, 3}


def test_coupled_verdicts_refuse_logits_that_are_not_finite():
    batch = [Request(9, DraftBlock.point_masses([]), sampling) for sampling in SAMPLINGS]
    logits = torch.zeros(4, VOCABULARY)
    logits[:, 3] = float("nan")
    assert verify_coupled(logits.cuda(), batch).next_tokens.tolist() == [-1] * 4


def test_noise_has_the_same_bits():
    seeds = np.random.default_rng(1).integers(0, 2**63, 1000).astype(np.uint64)
    device = uniform_tensor(
        torch.from_numpy(seeds.view(np.int64)).cuda(), torch.arange(1000).cuda(), 1, torch.tensor(3).cuda()
    )
    assert (uniform(seeds, np.arange(1000), 1, start=3) == device.cpu().numpy()).all()


def test_a_round_waits_for_nothing_but_its_verdicts():
    _, cuda = models()
    for segments in (*rounds(), *rounds()):
        cuda.forward(segments)
    batch = [Request(30 + i, DraftBlock.point_masses([1, 2, 3, 4]), SAMPLINGS[i + 1]) for i in range(3)]
    verify(cuda.forward(segments), batch)  # whatever loads or allocates has done so
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            verify(cuda.forward(segments), batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # The wait for the event behind the verdicts is not among these.
    assert not [w for w in waits if "synchroniz" in str(w.message)], [str(w) for w in waits]
