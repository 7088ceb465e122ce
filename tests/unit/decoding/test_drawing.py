"""On a card, what is drawn is what torch's own operations draw from the same logits and noise."""

import numpy as np
import pytest
import torch

from goodspeed_runtime.decoding.proposing import Manner, Proposal, Rule, drawn
from goodspeed_runtime.decoding.sampling import Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
SAMPLINGS = [
    Sampling(1.0, seed=7),
    Sampling(0.0),
    Sampling(0.7, 5, 0.9, 2**63 + 5),
    Sampling(1.0, 0, 0.8, 3),
    Sampling(1.3, 7, 1.0, 11),
    Sampling(0.0, seed=2**64 - 1),
    Sampling(40.0, 0, 1.0, 2**32),
]


def proposals(logits, samplings, rule, step=2):
    from goodspeed_runtime.decoding.fused.drawing import draw

    count, columns = logits.shape
    greedy = all(s.greedy for s in samplings)
    places = np.arange(count) + 9
    size = min(rule.support_size, columns)
    numbers = [torch.from_numpy(column) for column in Manner.numbers(samplings, places, places - 4, size)]
    here = Manner.of(numbers, torch.tensor([step]))
    there = Manner.of([column.cuda() for column in numbers], torch.tensor([step]).cuda())
    into = torch.full((4, count + 1, rule.width(columns, greedy=greedy)), -7, dtype=torch.int32).cuda()
    tokens = torch.zeros(count, dtype=torch.int32).cuda()
    wide = torch.zeros(count, columns + 3)
    wide[:, :columns] = logits
    on_device = Rule(
        rule.support_size, rule.coupled, None if rule.token_ids is None else rule.token_ids.cuda()
    )
    draw(wide.cuda()[:, :columns], there, on_device, into, tokens, greedy=greedy)
    columns_here = drawn(logits, here, rule)[:, : into.shape[2]]
    columns_there = into.cpu().numpy()
    assert (np.delete(columns_there, step, axis=0) == -7).all()
    assert (columns_there[step, count:] == -7).all()
    assert columns_there[step, :count, 0].tolist() == tokens.cpu().tolist()
    return Proposal.of(columns_here.numpy()), Proposal.of(columns_there[step, :count])


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("columns", [5, 40, 5000, 49152])
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("who", ["all", "greedy", "sampled"])
def test_rows_are_drawn_as_by_torchs_own_operations(columns, coupled, mapped, who):
    samplings = [s for s in SAMPLINGS * 30 if who == "all" or s.greedy == (who == "greedy")]
    generator = torch.Generator().manual_seed(columns)
    logits = 3 * torch.randn(len(samplings), columns, generator=generator)
    rule = Rule(24, coupled, 2 * torch.arange(columns) + 1 if mapped else None)
    here, there = proposals(logits, samplings, rule)
    # A weight that lies halfway between two integers may go either way, and the draw with it.
    same = here.tokens == there.tokens
    assert same.mean() > 0.99
    assert (here.support_sizes == there.support_sizes).mean() > 0.99
    greedy = np.array([s.greedy for s in samplings])
    assert same[greedy].all()
    assert not there.support_sizes[greedy].any()
    sampled = ~greedy & ~(here.support_sizes != there.support_sizes)
    if not coupled and sampled.any():
        assert (here.support_ids == there.support_ids)[sampled].all()
        assert abs(here.support_weights - there.support_weights)[sampled].max() <= 1
    np.testing.assert_allclose(there.confidence, here.confidence, rtol=2e-5, atol=2e-5)


def test_of_equally_likely_tokens_a_greedy_row_takes_the_first_wherever_they_are():
    logits = torch.zeros(3, 9000)
    logits[0, [8999, 100, 5000]] = 1.0
    logits[1, [4096, 4095]] = 1.0
    _, there = proposals(logits, [Sampling(0.0)] * 3, Rule(8))
    assert there.tokens.tolist() == [100, 4095, 0]


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_still_give_a_token_that_its_q_allows(coupled, value):
    for some in (slice(0, 1), slice(4000, 4500), slice(None)):
        logits = torch.randn(2, 6000, generator=torch.Generator().manual_seed(1))
        logits[:, some] = value
        _, there = proposals(logits, [Sampling(1.0, seed=3), Sampling(0.0)], Rule(8, coupled))
        assert ((there.tokens >= 0) & (there.tokens < 6000)).all()
        assert ((there.confidence >= 0) & (there.confidence <= 1)).all()
        for row in range(2):
            size = there.support_sizes[row]
            assert not size or there.tokens[row] in there.support_ids[row, :size]


def test_a_step_is_described_where_its_tokens_were_drawn():
    from goodspeed_runtime.decoding.fused.drawing import advance

    step = torch.tensor([0]).cuda()
    slots, positions, counts = (torch.tensor(c).cuda() for c in ([4, 0, 2], [10, 7, 3], [3, 2, 1]))
    segments = torch.full((3, 4), -7, dtype=torch.int32).cuda()
    advance(step, slots, positions, counts, segments)
    assert segments.tolist() == [[1, 10, 4, 1], [1, 7, 0, 1], [0, 0, 0, 0]]
    advance(step, slots, positions, counts, segments)
    assert segments.tolist() == [[1, 11, 4, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert step.item() == 2
