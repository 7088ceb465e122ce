"""What a verifier grants, and from what chance of standing on a drafted token is worth its budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.verifier.grants import Grants
from goodspeed_runtime.verifier.sequence import Account, Client, Sequence, compact
from goodspeed_runtime.verifier.settings import VerifierSettings
from goodspeed_runtime.verifier.verdicts import Replies, commit_first

CAP = 8


def sequences(grants, weights):
    found = []
    for key, weight in enumerate(weights):
        client = Client(f"d{key}", "p", Account(f"d{key}", weight), CAP, lambda frame: None)
        grants.add(client)
        found.append(
            Sequence(client, client.account, key, compact([1]), 1, 99, Sampling(0.0), frozenset(), 0.0)
        )
    return found


@given(st.integers(1, 20), st.lists(st.sampled_from([0.5, 1.0, 2.0, 8.0]), min_size=1, max_size=4))
def test_the_last_token_granted_is_worth_its_budget_and_one_more_would_not_be(budget, weights):
    grants = Grants(VerifierSettings("cell", budget_tokens=budget, max_draft_tokens=CAP))
    active = sequences(grants, weights)
    figures = grants.grant(active, [True] * len(active), 0.0)
    acceptance, *_ = grants.estimates(np.array([each.client.row for each in active]))
    for each, alpha, least in zip(active, acceptance, figures.least_chance, strict=True):
        assert each.grant == 0 or alpha**each.grant >= least - 1e-9
        assert each.grant == CAP or alpha ** (each.grant + 1) <= least + 1e-9


def test_with_budget_for_all_every_token_is_worth_it_and_with_little_few_are():
    chances = []
    for budget in (64, 1):
        grants = Grants(VerifierSettings("cell", budget_tokens=budget, max_draft_tokens=CAP))
        active = sequences(grants, [1.0, 1.0])
        chances.append(grants.grant(active, [True, True], 0.0).least_chance.tolist())
    assert chances[0] == [0.0, 0.0]
    assert min(chances[1]) > 0.3


def test_who_counts_more_is_granted_more_and_asked_for_less():
    grants = Grants(VerifierSettings("cell", budget_tokens=6, max_draft_tokens=CAP))
    light, heavy = active = sequences(grants, [1.0, 4.0])
    figures = grants.grant(active, [True, True], 0.0)
    assert heavy.grant > light.grant
    assert figures.least_chance[1] == pytest.approx(figures.least_chance[0] / 4)


@given(st.integers(1, 20), st.lists(st.sampled_from([0.5, 1.0, 2.0, 8.0]), min_size=1, max_size=4))
def test_grants_planned_before_the_verdicts_are_those_that_would_be_made_after_them(budget, weights):
    settings = VerifierSettings("cell", budget_tokens=budget, max_draft_tokens=CAP, objective="perSecond")
    given = []
    for plans in (False, True):
        grants = Grants(settings)
        active = sequences(grants, weights)
        if plans:
            grants.plan(active)
        figures = grants.grant(active, [True] * len(active), 0.0)
        given.append(([each.grant for each in active], figures.shadow_price))
    assert given[0] == given[1]


def test_a_plan_keeps_to_the_room_that_verdicts_have_left_and_gives_newcomers_nothing():
    grants = Grants(VerifierSettings("cell", budget_tokens=64, max_draft_tokens=CAP))
    ending, other, new = active = sequences(grants, [1.0, 1.0, 1.0])
    grants.plan([ending, other])
    ending.tokens.extend([2] * 95)
    grants.grant(active, [True] * 3, 0.0)
    assert [each.grant for each in active] == [3, CAP, 0]
    # It is handed out once.
    grants.grant(active, [False, False, True], 0.0)
    assert new.grant == CAP


@pytest.mark.parametrize(("grant", "said"), [(3, 57), (0, 0)])
def test_an_answer_with_a_grant_says_the_chance_in_percent(grant, said):
    grants = Grants(VerifierSettings("cell"))
    (sequence,) = sequences(grants, [1.0])
    replies = Replies(0)
    commit_first(sequence, 5, 64, replies)
    sequence.allow(0.0, grant, 0.0, 1.0, 0.5)
    replies.grant(sequence, 0.579)
    ((_, frame),) = replies.frames()
    assert isinstance(frame, pb.VerifierFrame)
    assert (frame.opened[0].grant, frame.opened[0].least_chance) == (grant, said)
