"""On a card, replayed steps that feed their own draws give what passes that come back to the host give."""

import warnings

import numpy as np
import pytest
import torch
from test_fused import FAMILIES, SLOTS, VOCABULARY, build, fused

from goodspeed_runtime.decoding.bursts import Bursts, Wish
from goodspeed_runtime.decoding.proposing import Rule, propose, propose_coupled
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
SUPPORT = 24
SAMPLINGS = [
    Sampling(1.0, seed=7),
    Sampling(0.0),
    Sampling(0.7, 5, 0.9, 2**63 + 5),
    Sampling(1.0, 0, 0.8, 3),
    Sampling(1.3, 7, 1.0, 11),
    Sampling(0.0),
]


def wishes(texts, counts, samplings=SAMPLINGS):
    return [
        Wish(Segment(slot, 0, text, 1), samplings[slot], len(text), count)
        for slot, (text, count) in enumerate(zip(texts, counts, strict=True))
    ]


def told(proposal, row):
    size = proposal.support_sizes[row]
    ids, weights = proposal.support_ids[row, :size], proposal.support_weights[row, :size]
    return int(proposal.tokens[row]), ids.tolist(), weights.tolist()


def one_by_one(model, wanted, *, coupled, columns=VOCABULARY):
    """A pass a token, all sequences that go on together, drawn where the host asks for it."""
    drawn = [[] for _ in wanted]
    confidence = [[] for _ in wanted]
    fed = [(wish.segment.start, wish.segment.tokens) for wish in wanted]
    for step in range(max(wish.count for wish in wanted)):
        # Sooner or later ended: the order in which a burst has its rows.
        going = sorted(
            (i for i, wish in enumerate(wanted) if wish.count > step), key=lambda i: -wanted[i].count
        )
        segments = [Segment(wanted[i].segment.slot, *fed[i], 1) for i in going]
        logits = model.forward(segments)[:, :columns]
        places = [fed[i][0] + len(fed[i][1]) for i in going]
        samplings = [wanted[i].sampling for i in going]
        if coupled:
            proposal = propose_coupled(logits, samplings, places, support_size=SUPPORT)
        else:
            starts = [wanted[i].start for i in going]
            proposal = propose(logits, samplings, places, starts, support_size=SUPPORT)
        for row, i in enumerate(going):
            drawn[i].append(told(proposal, row))
            confidence[i].append(proposal.confidence[row])
            fed[i] = places[row], [int(proposal.tokens[row])]
    return drawn, confidence


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_bursts_draw_what_single_passes_draw_id_by_id_and_weight_by_weight(family, dtype, coupled):
    model = fused(build(family, dtype))
    bursts = Bursts(model.steps, Rule(SUPPORT, coupled), columns=VOCABULARY - 9)
    rng = np.random.default_rng(8)
    for counts in ([7] * SLOTS, [16, 1, 5, 5, 2, 9], [3], [1, 8], [4, 4, 4, 4]):
        texts = [rng.integers(0, VOCABULARY, int(rng.integers(1, 40))).tolist() for _ in counts]
        wanted = wishes(texts, counts)
        expected, confidence = one_by_one(model, wanted, coupled=coupled, columns=VOCABULARY - 9)
        for slot in range(SLOTS):
            model.lengths[slot] = 0
        for i, proposal in enumerate(bursts.draft(wanted)):
            assert [told(proposal, row) for row in range(counts[i])] == expected[i]
            np.testing.assert_allclose(proposal.confidence, confidence[i], rtol=1e-5)
            assert model.lengths[i] == wanted[i].position + counts[i] - 1


@pytest.mark.parametrize("coupled", [False, True])
def test_greedy_sequences_alone_get_their_likeliest_tokens(coupled):
    model = fused(build("Qwen3"))
    bursts = Bursts(model.steps, Rule(SUPPORT, coupled), columns=VOCABULARY)
    wanted = wishes([[5, 6, 7], [8] * 30], [9, 4], [Sampling(0.0)] * 2)
    expected, _ = one_by_one(model, wanted, coupled=coupled)
    model.lengths[0] = model.lengths[1] = 0
    drafts = bursts.draft(wanted)
    assert [[told(d, row) for row in range(len(d.tokens))] for d in drafts] == expected


def test_what_a_burst_computed_is_what_a_pass_over_it_computes():
    model = fused(build("Llama"))
    bursts = Bursts(model.steps, Rule(SUPPORT), columns=VOCABULARY)
    # Beyond the first chunk of a context, and over its edge.
    text = np.random.default_rng(2).integers(0, VOCABULARY, 507).tolist()
    model.forward([Segment(3, 0, text[:500], 0)])
    (proposal,) = bursts.draft([Wish(Segment(3, 500, text[500:], 1), Sampling(1.0, seed=4), 507, 12)])
    drafted = proposal.tokens.tolist()
    after = model.forward([Segment(3, 518, drafted[-1:], 1)]).clone()
    afresh = model.forward([Segment(0, 0, [*text, *drafted], 1)])
    torch.testing.assert_close(after, afresh, atol=1e-3, rtol=1e-3)


def test_a_burst_waits_for_nothing_but_its_end():
    model = fused(build("Llama"))
    bursts = Bursts(model.steps, Rule(SUPPORT), columns=VOCABULARY)
    coupled = Bursts(model.steps, Rule(SUPPORT, coupled=True), columns=VOCABULARY)
    wanted = wishes([[1, 2, 3]] * 3, [8, 3, 5])
    for each in (bursts, coupled):
        each.draft(wanted)  # whatever loads or allocates has done so
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            for each in (bursts, coupled):
                each.draft(wanted)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # The wait for the event behind what was drawn is not among these.
    assert not [w for w in waits if "synchroniz" in str(w.message)], [str(w) for w in waits]


def test_where_batches_must_not_matter_there_are_no_bursts():
    assert fused(build("Llama", torch.bfloat16), batch_invariant=True).steps is None
