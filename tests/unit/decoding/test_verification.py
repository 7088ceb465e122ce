"""Committed tokens are distributed as the target's own, whatever was drafted."""

import numpy as np
import pytest
import torch
from drafts import block_of, nothing, through_the_wire
from exact import FALSE_ALARM, distribution, p_value
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_runtime.decoding.noise import ACCEPT, CHOOSE, uniform
from goodspeed_runtime.decoding.proposing import propose
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.verification import Request, verify
from goodspeed_runtime.protocol.wire import DraftBlock

ROUNDS = 20_000
VOCABULARY = 13
POSITION = 7

SAMPLINGS = pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({}, id="temperature 1"),
        pytest.param({"top_k": 4}, id="top-k"),
        pytest.param({"top_p": 0.8}, id="top-p"),
        pytest.param({"temperature": 0.6}, id="temperature 0.6", marks=pytest.mark.slow),
        pytest.param({"temperature": 1.4, "top_k": 6, "top_p": 0.7}, id="all three", marks=pytest.mark.slow),
    ],
)


def models(length, seed=0, apart=1.0):
    """Logits of a target for `length + 1` positions and of a drafter that resembles it."""
    generator = torch.Generator().manual_seed(seed)
    target = 1.5 * torch.randn(length + 1, VOCABULARY, generator=generator)
    return target, target[:length] + apart * torch.randn(length, VOCABULARY, generator=generator)


def speculate(target, drafter, parameters, rounds=ROUNDS, support_size=6, lie=None):
    """Many independent rounds at once; returns the verdicts and the committed tokens, -1 beyond their end."""
    length = len(drafter)
    samplings = [Sampling(**parameters, seed=seed) for seed in range(rounds)]
    proposals = [
        propose(
            drafter[j].expand(rounds, -1),
            samplings,
            np.full(rounds, POSITION + j),
            np.full(rounds, POSITION),
            support_size=support_size,
        )
        for j in range(length)
    ]
    blocks = [block_of(proposals, i) if length else nothing() for i in range(rounds)]
    if lie is not None:
        blocks = [lie(block) for block in blocks]
    verdicts = verify(
        target.repeat(rounds, 1), [Request(POSITION, b, s) for b, s in zip(blocks, samplings, strict=True)]
    )
    committed = np.full((rounds, length + 1), -1)
    for i, block in enumerate(blocks):
        accepted = verdicts.accepted[i]
        committed[i, :accepted] = block.tokens[:accepted]
        committed[i, accepted] = verdicts.next_tokens[i]
    return verdicts, blocks, committed


def worst_p_value(committed, target, parameters):
    """Least p-value over the positions that a round may commit."""
    rows = distribution(target, **parameters)
    values = []
    for j, row in enumerate(rows):
        reached = committed[committed[:, j] >= 0, j]
        if reached.size > 100:
            values.append(p_value(np.bincount(reached, minlength=VOCABULARY), row))
    return min(values)


@SAMPLINGS
@pytest.mark.parametrize("length", [*(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 5)), 2])
def test_committed_tokens_are_distributed_as_the_target_alone(parameters, length):
    target, drafter = models(length)
    verdicts, _, committed = speculate(target, drafter, parameters)
    assert worst_p_value(committed, target, parameters) > FALSE_ALARM
    assert length == 0 or 0.05 < (verdicts.accepted > 0).mean() < 0.95  # both branches are exercised


@SAMPLINGS
def test_a_drafter_that_lies_about_q_is_caught_by_the_same_test(parameters):
    target, drafter = models(1)

    def flatten(block):
        ones = np.ones_like(block.support_weights)
        return through_the_wire(DraftBlock(block.tokens, block.support_sizes, block.support_ids, ones))

    _, _, committed = speculate(target, drafter, parameters, lie=flatten)
    assert worst_p_value(committed, target, parameters) < FALSE_ALARM


@SAMPLINGS
@pytest.mark.parametrize("token", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 2, 3))])
def test_point_masses_are_lossless_however_unlikely_their_token(parameters, token):
    target, _ = models(1, seed=token)
    block = through_the_wire(DraftBlock.point_masses([token]))
    samplings = [Sampling(**parameters, seed=seed) for seed in range(ROUNDS)]
    verdicts = verify(target.repeat(ROUNDS, 1), [Request(POSITION, block, s) for s in samplings])
    first = np.where(verdicts.accepted == 1, token, verdicts.next_tokens)
    expected = distribution(target, **parameters)
    assert p_value(np.bincount(first, minlength=VOCABULARY), expected[0]) > FALSE_ALARM
    assert verdicts.soft_ratios == pytest.approx(expected[0, token], rel=1e-5)
    assert (verdicts.next_tokens[verdicts.accepted == 0] != token).all()


@SAMPLINGS
def test_every_single_decision_is_the_one_that_rule_and_noise_prescribe(parameters):
    length = 4
    target, drafter = models(length, seed=4)
    verdicts, blocks, _ = speculate(target, drafter, parameters, rounds=2000)
    p = distribution(target, **parameters)
    for seed, block in enumerate(blocks):
        ends = np.cumsum(block.support_sizes)
        for j in range(length + 1):
            q = np.zeros(VOCABULARY)
            if j < length:
                support = slice(ends[j] - block.support_sizes[j], ends[j])
                q[block.support_ids[support]] = block.support_weights[support]
                q /= q.sum()
                token = block.tokens[j]
                if uniform(seed, POSITION + j, ACCEPT)[0] < p[j, token] / q[token]:
                    continue
            cumulative = np.cumsum(np.maximum(p[j] - q, 0))
            choice = np.searchsorted(
                cumulative, uniform(seed, POSITION + j, CHOOSE)[0] * cumulative[-1], "right"
            )
            assert (verdicts.accepted[seed], verdicts.next_tokens[seed]) == (j, choice)
            break


def test_the_soft_ratio_sums_over_rejected_positions_too():
    target, drafter = models(3)
    verdicts, blocks, _ = speculate(target, drafter, {}, rounds=200)
    p = distribution(target)
    for block, soft in zip(blocks, verdicts.soft_ratios, strict=True):
        ends = np.cumsum(block.support_sizes)
        expected = 0.0
        for j, token in enumerate(block.tokens):
            support = slice(ends[j] - block.support_sizes[j], ends[j])
            weights = block.support_weights[support]
            q = weights[block.support_ids[support] == token][0] / weights.sum()
            expected += min(1.0, p[j, token] / q)
        assert soft == pytest.approx(expected, rel=1e-5)
    assert (verdicts.accepted < 3).any()


def test_a_draft_from_the_target_itself_is_nearly_always_accepted():
    target, _ = models(4)
    verdicts, _, _ = speculate(target, target[:4], {}, rounds=2000, support_size=VOCABULARY)
    assert verdicts.accepted.mean() > 3.99


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_greedy_accepts_exactly_the_leading_tokens_the_target_would_have_chosen(data):
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=6))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    logits = torch.randn(sum(lengths) + len(lengths), 4, generator=generator)
    requests, expected, row = [], [], 0
    for length in lengths:
        tokens = data.draw(st.lists(st.integers(0, 3), min_size=length, max_size=length))
        best = logits[row : row + length + 1].argmax(1).tolist()
        accepted = next((j for j in range(length) if tokens[j] != best[j]), length)
        expected.append((accepted, best[accepted], sum(a == b for a, b in zip(tokens, best, strict=False))))
        requests.append(Request(3, DraftBlock.point_masses(tokens), Sampling(temperature=0)))
        row += length + 1
    verdicts = verify(logits, requests)
    got = zip(verdicts.accepted, verdicts.next_tokens, verdicts.soft_ratios, strict=True)
    assert [tuple(map(int, v)) for v in got] == expected


def test_what_else_is_in_the_round_changes_nothing():
    generator = torch.Generator().manual_seed(3)
    samplings = [
        *(Sampling(0.0), Sampling(1.0, seed=1), Sampling(0.7, 3, 1.0, 2)),
        *(Sampling(0.0), Sampling(1.2, 0, 0.6, 2**64 - 1)),
    ]  # fmt: skip
    drafted = [[1, 2], [], [3, 4, 5], [], [6]]
    requests = [
        Request(9 + i, DraftBlock.point_masses(d), s)
        for i, (d, s) in enumerate(zip(drafted, samplings, strict=True))
    ]
    rows = [torch.randn(len(d) + 1, VOCABULARY, generator=generator) for d in drafted]
    together = verify(torch.cat(rows), requests)
    for i, (row, request) in enumerate(zip(rows, requests, strict=True)):
        alone = verify(row, [request])
        assert alone.accepted[0] == together.accepted[i]
        assert alone.next_tokens[0] == together.next_tokens[i]
        assert alone.soft_ratios[0] == pytest.approx(together.soft_ratios[i])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_end_their_own_sequence_only(temperature):
    sampling = Sampling(temperature, seed=5)
    logits = torch.zeros(5, VOCABULARY)
    logits[:, 2] = 9.0
    logits[1] = float("nan")
    drafts = [[2, 2], [2]]
    verdicts = verify(logits, [Request(4, DraftBlock.point_masses(d), sampling) for d in drafts])
    assert verdicts.next_tokens.tolist() == [-1, 2]


def test_logits_that_are_not_finite_behind_a_rejected_token_count_as_no_acceptance():
    """They cost nothing; as NaN in the acceptance of one drafter they would stop everybody's grants."""
    logits = torch.zeros(4, VOCABULARY)
    logits[:, 2] = 99.0
    logits[2] = float("nan")
    verdicts = verify(logits, [Request(4, DraftBlock.point_masses([2, 1, 1]), Sampling(1.0, seed=5))])
    assert (verdicts.accepted[0], verdicts.next_tokens[0]) == (1, 2)
    assert verdicts.soft_ratios[0] == pytest.approx(1.0)


def test_rows_that_do_not_fit_the_drafts_are_refused():
    with pytest.raises(ValueError, match="2 rows of logits for 2 draft tokens"):
        verify(torch.zeros(2, 4), [Request(0, DraftBlock.point_masses([1, 2]), Sampling())])


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"seed": 1 << 64}, "seed"),
    ],
)
def test_sampling_without_meaning_is_refused_by_name(parameters, named):
    with pytest.raises(ValueError, match=named):
        Sampling(**parameters)
