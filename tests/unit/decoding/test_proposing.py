"""A proposal's token is drawn from exactly the q that it declares."""

import numpy as np
import pytest
import torch
from exact import FALSE_ALARM, p_value

from goodspeed_runtime.decoding.proposing import WEIGHT_LIMIT, propose, propose_coupled
from goodspeed_runtime.decoding.sampling import Sampling

DRAWS = 20_000


def proposals(logits, draws=DRAWS, support_size=8, **parameters):
    samplings = [Sampling(**parameters, seed=seed) for seed in range(draws)]
    return propose(
        logits.expand(draws, -1), samplings, np.full(draws, 5), np.full(draws, 4), support_size=support_size
    )


@pytest.mark.parametrize(
    "parameters",
    [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 9.0, "top_k": 5, "top_p": 0.9}],
)
def test_tokens_are_distributed_as_the_declared_weights(parameters):
    torch.manual_seed(2)
    logits = 2 * torch.randn(1, 40)
    drawn = proposals(logits, **parameters)
    size = drawn.support_sizes[0]
    weights = np.zeros(40)
    weights[drawn.support_ids[0, :size]] = drawn.support_weights[0, :size]
    assert p_value(np.bincount(drawn.tokens, minlength=40), weights / weights.sum()) > FALSE_ALARM


def test_weights_follow_the_models_probabilities_and_fit_the_wire():
    logits = torch.tensor([[3.0, 1.0, 2.0, -20.0]])
    drawn = proposals(logits, draws=1)
    assert drawn.support_sizes.tolist() == [3]  # the last weight rounds to zero and leaves the support
    assert drawn.support_ids[0, :3].tolist() == [0, 2, 1]
    expected = np.exp([0.0, -1.0, -2.0]) * WEIGHT_LIMIT
    assert drawn.support_weights[0, :3] == pytest.approx(expected, abs=1)


def test_greedy_sequences_get_point_masses_among_sampled_ones():
    logits = torch.randn(2, 40)
    mixed = propose(logits, [Sampling(0.0), Sampling(1.0)], [3, 3], [3, 3], support_size=8)
    assert mixed.support_sizes.tolist() == [0, 8]
    assert mixed.tokens[0] == logits[0].argmax()
    alone = propose(logits[:1], [Sampling(0.0)], [3], [3])
    assert (alone.tokens.tolist(), alone.support_sizes.tolist()) == ([int(logits[0].argmax())], [0])


def test_a_redraft_of_a_position_draws_anew():
    logits = torch.zeros(1, 30).expand(500, -1)
    samplings = [Sampling(seed=seed) for seed in range(500)]
    first, second = (propose(logits, samplings, [9] * 500, [start] * 500).tokens for start in (8, 9))
    assert 0 < (first == second).mean() < 0.15  # chance is 1/30


def test_logits_that_are_not_finite_still_give_a_token_that_its_q_allows():
    drawn = propose(torch.full((1, 8), float("nan")), [Sampling()], [0], [0], support_size=4)
    assert 0 <= drawn.tokens[0] < 8
    assert drawn.support_sizes[0] == 0


@pytest.mark.parametrize("coupled", [False, True])
def test_who_shares_the_batch_changes_nothing_of_a_greedy_row(coupled):
    torch.manual_seed(4)
    logits = torch.randn(2, 40)
    logits[0, [30, 9]] = 5.0  # which of the two is taken must not depend on company either

    def proposed(count):
        sampling = [Sampling(0.0), Sampling(1.0)][:count]
        if coupled:
            return propose_coupled(logits[:count], sampling, [3] * count)
        return propose(logits[:count], sampling, [3] * count, [3] * count, support_size=8)

    alone, mixed = proposed(1), proposed(2)
    assert (alone.tokens[0], alone.support_sizes[0]) == (mixed.tokens[0], mixed.support_sizes[0]) == (9, 0)
    share = logits[0].softmax(0)[9].item()
    assert alone.confidence[0] == pytest.approx(share, abs=1e-6)
    assert mixed.confidence[0] == pytest.approx(share, abs=1e-6)
