"""Drafted a few tokens at a time or one by one, a draft is the same, and stops at the same place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eager_steps import EagerSteps
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.serving import serve
from goodspeed_runtime.drafter.engine import Job
from goodspeed_runtime.drafter.model_engine import BURST, ModelEngine
from tiny_llama import llama

VOCABULARY, SLOTS, CONTEXT = 30, 4, 48
SAMPLINGS = [
    Sampling(0.0),
    Sampling(1.0, seed=7),
    Sampling(0.6, 4, 0.9, 2**63 + 5),
    Sampling(2.0, 0, 0.7, 3),
]


def engine(*, bursts, coupled=False):
    model = serve(
        llama(vocabulary=VOCABULARY, scale=0.6),
        slots=SLOTS,
        max_context=CONTEXT,
        max_tokens=256,
        max_rows=SLOTS,
        batch_invariant=True,
    )
    if bursts:
        model.steps = EagerSteps(model, SLOTS)
    made = ModelEngine(
        model, "tiny", max_context=CONTEXT, support_size=6, vocabulary_size=VOCABULARY - 2, coupled=coupled
    )
    return made, model


def sent(draft):
    block = draft.block
    return (
        block.tokens.tolist(),
        block.support_sizes.tolist(),
        block.support_ids.tolist(),
        block.support_weights.tolist(),
    )


CALLS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 9), min_size=SLOTS, max_size=SLOTS),  # grants
        st.sampled_from([0.0, 0.02, 0.2, 0.5]),  # least chance
        st.sampled_from([0.0, 0.05, 0.4]),  # cost of a token
        st.lists(st.integers(0, 9), min_size=SLOTS, max_size=SLOTS),  # accepted of each draft
        st.booleans(),  # whether the verifier's token is the one drafted next
        st.booleans(),  # whether what was drafted stood
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25, deadline=None)
@given(CALLS, st.booleans())
def test_whatever_grants_and_verdicts_come_both_ways_give_the_same_drafts(calls, coupled):
    (here, held), (there, kept) = (engine(bursts=way, coupled=coupled) for way in (False, True))
    texts = [[1, 2, 3], [4], [5, 6], [7] * 12]
    for grants, least_chance, cost, accepted, guessed, stood in calls:
        keys = [key for key in range(SLOTS) if grants[key]]
        if not keys:
            continue
        jobs = [Job(key, list(texts[key]), grants[key], SAMPLINGS[key], least_chance, cost) for key in keys]
        expected, drafts = here.draft(jobs), there.draft(jobs)
        for one, other in zip(expected, drafts, strict=True):
            assert sent(other) == sent(one)
            assert other.confidence == pytest.approx(one.confidence, abs=1e-6)
        assert kept.lengths == held.lengths
        for key, draft in zip(keys, expected, strict=True):
            tokens = draft.block.tokens.tolist()
            count = min(accepted[key], len(tokens))
            own = tokens[count] if guessed and count < len(tokens) else 11
            texts[key] += [*tokens[:count], own]
            for confidence in draft.confidence:
                here.learn(confidence, stood)
                there.learn(confidence, stood)


def test_a_draft_that_stops_early_costs_less_than_a_burst_more_than_its_tokens():
    made, model = engine(bursts=True)
    for _ in range(2000):
        for confidence in np.linspace(0, 1, 13):
            made.learn(confidence, False)
    (draft,) = made.draft([Job(1, [1, 2], 16, SAMPLINGS[1], least_chance=0.5)])
    assert len(draft) == 1
    assert len(model.steps.fed) == BURST - 1
    assert model.lengths[0] == 3  # the second token drafted was one too many, and is what is never fed


def test_without_an_early_stop_a_draft_is_one_burst():
    made, model = engine(bursts=True)
    begun = []
    begin, model.steps.begin = model.steps.begin, lambda segments: (begun.append(1), begin(segments))
    (draft,) = made.draft([Job(1, [1, 2], 12, SAMPLINGS[1])])
    assert (len(draft), len(begun)) == (12, 1)


def test_drafts_end_with_the_context():
    made, _ = engine(bursts=True)
    assert [len(made.draft([Job(size, [1] * size, 9, SAMPLINGS[1])])[0]) for size in (40, 44, 48, 49)] == [
        9,
        5,
        1,
        0,
    ]
