"""The reference tells an equal answer, a near-tie and a wrong answer apart."""

import pytest
import torch

from goodspeed_runtime.decoding.reference import Reference
from tiny_llama import llama

PROMPT = [1, 4, 2, 5]


@pytest.fixture
def reference():
    return Reference(llama(seed=3, vocabulary=40))


def test_the_references_own_answer_is_equal(reference):
    answer = reference.greedy(PROMPT, 12)
    assert len(answer) == 12
    comparison = reference.compare(PROMPT, answer)
    assert comparison.equal
    assert (comparison.tokens, comparison.near_ties, comparison.wrong) == (12, 0, None)


def test_greedy_is_what_transformers_generates(reference):
    module = llama(seed=3, vocabulary=40).module
    ids = torch.tensor([PROMPT])
    generated = module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert reference.greedy(PROMPT, 12) == generated[0, len(PROMPT) :].tolist()


def test_greedy_stops_after_a_stop_token(reference):
    answer = reference.greedy(PROMPT, 12)
    assert reference.greedy(PROMPT, 12, {answer[3]}) == answer[: answer.index(answer[3]) + 1]


def test_one_changed_token_is_found_where_it_is(reference):
    answer = reference.greedy(PROMPT, 12)
    answer[5] = (answer[5] + 1) % 40
    comparison = reference.compare(PROMPT, answer)
    assert (comparison.wrong, comparison.equal) == (5, False)
    assert comparison.gap > reference.tolerance


def test_a_token_nearly_as_likely_counts_as_a_near_tie_and_the_answer_goes_on(reference):
    answer = reference.greedy(PROMPT, 4)
    reference.tolerance = 1e9
    answer[1] = (answer[1] + 1) % 40
    comparison = reference.compare(PROMPT, answer)
    assert comparison.wrong is None
    assert comparison.near_ties >= 1
    assert not comparison.equal
