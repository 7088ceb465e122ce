"""Prompts lengthen a round by a share of it, accounts share what there is, and one computes for many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.decoding.prefixes import SHORTEST
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.scheduling.timing import VerificationCost
from goodspeed_runtime.verifier.prefill import LEAST_TOKENS, PrefillLimit, Prompt, divide, foremost
from goodspeed_runtime.verifier.sequence import Account, Client, Sequence, compact

COSTS = st.builds(VerificationCost.linear, st.floats(1e-4, 0.1), st.floats(0, 0.01))


@given(st.integers(1, 600), st.floats(0, 3), COSTS, st.integers(1, 200))
def test_a_round_with_drafts_is_lengthened_by_its_share_and_by_no_token_more(most, share, cost, decoding):
    room = PrefillLimit(most, share, cost).room(decoding)
    longest = (1 + share) * cost.at(decoding)
    assert 1 <= room <= most
    assert room <= LEAST_TOKENS or cost.at(decoding + room) <= longest
    assert room in (most, LEAST_TOKENS) or cost.at(decoding + room + 1) > longest


@given(st.integers(1, 600), st.floats(0, 3), COSTS)
def test_where_nobody_decodes_the_whole_chunk_is_fed(most, share, cost):
    assert PrefillLimit(most, share, cost).room(0) == most


def test_a_flat_cost_leaves_room_for_all():
    assert PrefillLimit(256, 0.5, VerificationCost((1.0, 512.0), (0.005, 0.0052))).room(40) == 256


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 400)), min_size=1, max_size=12),
    st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=5, max_size=5),
)
def test_no_room_is_left_while_a_prompt_could_use_it_and_accounts_are_even_by_weight(room, wanted, weights):
    prompts = [Prompt(account, weights[account], tokens) for account, tokens in wanted]
    given_tokens = divide(room, prompts)
    assert all(0 <= got <= prompt.tokens for got, prompt in zip(given_tokens, prompts, strict=True))
    assert sum(given_tokens) == min(room, sum(prompt.tokens for prompt in prompts))
    got, left = {}, {}
    for tokens, prompt in zip(given_tokens, prompts, strict=True):
        got[prompt.account] = got.get(prompt.account, 0) + tokens
        left[prompt.account] = left.get(prompt.account, 0) + prompt.tokens - tokens
    for account in got:
        # Who still wants some has, for its weight, as much as any other, to a token for each account.
        if left[account]:
            for other in got:
                assert (got[other] - len(got)) / weights[other] <= (got[account] + len(got)) / weights[
                    account
                ]


def test_within_an_account_the_first_prompt_is_finished_first():
    assert divide(50, [Prompt("a", 1.0, 40), Prompt("a", 1.0, 40), Prompt("b", 1.0, 5)]) == [40, 5, 5]


def prompt(tokens, *, filled=0, scope=""):
    account = Account("a", 1.0)
    client = Client("d", "p", account, 8, lambda _: None)
    one = Sequence(client, account, 1, compact(tokens), len(tokens), 9, Sampling(0.0), frozenset(), 0.0)
    one.scope = scope
    one.sit_down(0, filled, 0.0)
    return one


SYSTEM = list(range(100))


def test_of_prompts_that_begin_alike_the_first_is_computed_and_the_others_wait():
    first, other, stranger = prompt([*SYSTEM, 1]), prompt([*SYSTEM, 2]), prompt([5, *SYSTEM])
    assert foremost([first, other, stranger]) == [first, stranger]


@pytest.mark.parametrize(
    ("filled", "ahead", "scope", "waits"),
    [
        (0, 0, "", True),
        (0, 30, "", True),
        (30, 30, "", True),
        (30, 20, "", False),  # it is further itself
        (100 - SHORTEST + 1, 100, "", False),  # what follows is its own, or too little
        (0, 0, "other", False),
        (0, 0, None, False),
    ],
)
def test_a_prompt_waits_only_for_what_another_is_about_to_compute(filled, ahead, scope, waits):
    first, other = prompt([*SYSTEM, 1], filled=ahead), prompt([*SYSTEM, 2], filled=filled, scope=scope)
    assert (foremost([first, other]) == [first]) == waits
