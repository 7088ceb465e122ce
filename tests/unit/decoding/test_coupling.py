"""Noise that both sides share: each seed's text is a draw from the target, and no draft changes it."""

import numpy as np
import pytest
import torch
from scipy import stats

from goodspeed_runtime.decoding.coupling import CANDIDATES, bits, choose, verify_coupled
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.verification import Request
from goodspeed_runtime.protocol.wire import DraftBlock

FALSE_ALARM = 1e-7
SEEDS = 20_000


def winners(row, position=7):
    seeds = torch.from_numpy(bits(range(SEEDS)))
    return choose(row.expand(SEEDS, -1), seeds, torch.full((SEEDS,), position)).numpy()


def p_value(chosen, target):
    """Of a chi-square test, ids of less than five expected draws taken together."""
    expected = SEEDS * (target.double() / target.double().sum()).numpy()
    seen = np.bincount(chosen, minlength=len(target)).astype(float)
    rare = expected < 5
    groups = [(seen[~rare], expected[~rare]), ([seen[rare].sum()], [expected[rare].sum()])]
    observed, wanted = (np.concatenate(each) for each in zip(*groups, strict=True))
    return stats.chisquare(observed[wanted > 0], wanted[wanted > 0]).pvalue


@pytest.mark.parametrize(("ids", "spread"), [(5, 2.0), (CANDIDATES, 1.0), (300, 0.5)])
def test_winners_are_drawn_from_the_target_those_beyond_the_candidates_too(ids, spread):
    generator = torch.Generator().manual_seed(ids)
    target = torch.softmax(spread * torch.randn(ids, generator=generator), 0)
    chosen = winners(target)
    assert p_value(chosen, target) > FALSE_ALARM
    if ids > CANDIDATES:
        likeliest = set(target.topk(CANDIDATES).indices.tolist())
        assert sum(token not in likeliest for token in chosen.tolist()) > SEEDS / 10


def test_the_test_above_would_notice_a_target_that_is_a_little_off():
    target = torch.softmax(torch.linspace(0, 2, 50), 0)
    other = torch.softmax(torch.linspace(0, 1.8, 50), 0)
    assert p_value(winners(other), target) < FALSE_ALARM


def test_ids_that_tie_at_the_edge_of_the_candidates_are_drawn_alike():
    target = torch.cat([torch.full((CANDIDATES - 10,), 1.0), torch.full((40,), 0.1), torch.zeros(50)])
    target /= target.sum()
    assert p_value(winners(target), target) > FALSE_ALARM


def test_positions_draw_independently():
    target = torch.full((2,), 0.5)
    one, other = winners(target, 7), winners(target, 8)
    table = [[int(((one == i) & (other == j)).sum()) for j in (0, 1)] for i in (0, 1)]
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


def text(logits, seed, draft_of, temperature=0.8, length=12):
    """Tokens committed until `length`, each round with the draft that `draft_of` gives."""
    tokens = []
    while len(tokens) < length:
        draft = list(draft_of(tokens))[: length - 1 - len(tokens)]
        rows = logits[len(tokens) : len(tokens) + len(draft) + 1]
        request = Request(
            10 + len(tokens), DraftBlock.point_masses(draft), Sampling(temperature, 0, 0.95, seed)
        )
        verdict = verify_coupled(rows, [request])
        tokens += [*draft[: verdict.accepted[0]], int(verdict.next_tokens[0])]
    return tokens[:length]


@pytest.mark.parametrize("temperature", [0.8, 0.0])
def test_whatever_is_drafted_the_text_is_that_of_plain_decoding(temperature):
    logits = 2 * torch.randn(12, 200, generator=torch.Generator().manual_seed(3))
    draw = np.random.default_rng(4)
    for seed in range(20):
        plain = text(logits, seed, lambda tokens: [], temperature)
        partly = [token if draw.random() < 0.7 else int(draw.integers(200)) for token in plain]
        assert text(logits, seed, lambda tokens, all_=plain: all_[len(tokens) :], temperature) == plain
        assert text(logits, seed, lambda tokens, some=partly: some[len(tokens) :][:4], temperature) == plain
        assert text(logits, seed, lambda tokens: draw.integers(200, size=3), temperature) == plain


def test_sequences_of_one_round_do_not_disturb_each_other():
    logits = torch.randn(9, 200, generator=torch.Generator().manual_seed(5))
    requests = [
        Request(30, DraftBlock.point_masses([3, 4]), Sampling(1.0, seed=1)),
        Request(7, DraftBlock.point_masses([]), Sampling(0.0, seed=2)),
        Request(90, DraftBlock.point_masses([1, 2, 3, 4]), Sampling(0.7, 50, 0.9, 3)),
    ]
    together = verify_coupled(logits, requests)
    start = 0
    for index, request in enumerate(requests):
        rows = len(request.draft.tokens) + 1
        alone = verify_coupled(logits[start : start + rows], [request])
        assert alone.accepted[0] == together.accepted[index]
        assert alone.next_tokens[0] == together.next_tokens[index]
        start += rows


def test_logits_that_are_not_finite_give_no_token():
    logits = torch.zeros(2, 100)
    logits[0, 5] = float("nan")
    requests = [Request(3, DraftBlock.point_masses([]), Sampling(1.0, seed=seed)) for seed in (1, 2)]
    assert verify_coupled(logits, requests).next_tokens.tolist()[0] == -1
    assert verify_coupled(logits, requests).next_tokens.tolist()[1] >= 0
