"""A burst draws, token by token, what one pass after another would have drawn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eager_steps import EagerSteps
from goodspeed_runtime.decoding.bursts import MOST_TOKENS, Bursts, Wish
from goodspeed_runtime.decoding.packed import PackedModel
from goodspeed_runtime.decoding.proposing import Rule, propose, propose_coupled
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling
from tiny_llama import llama

VOCABULARY, SLOTS, CONTEXT, SUPPORT = 30, 5, 64, 6
MODULE = llama(vocabulary=VOCABULARY).module


def model():
    made = PackedModel(SimpleNamespace(module=MODULE), slots=SLOTS, max_context=CONTEXT, batch_invariant=True)
    for _ in range(SLOTS):
        made.acquire()
    return made


def one_by_one(wish, *, coupled, columns=VOCABULARY):
    """What the host draws, alone and a token a pass: token, q, confidence."""
    alone, tokens, start, drawn = model(), list(wish.segment.tokens), wish.segment.start, []
    alone.lengths[wish.segment.slot] = start
    for _ in range(wish.count):
        logits = alone.forward([Segment(wish.segment.slot, start, tokens, 1)])[:, :columns]
        start += len(tokens)
        if coupled:
            proposal = propose_coupled(logits, [wish.sampling], [start], support_size=SUPPORT)
        else:
            proposal = propose(logits, [wish.sampling], [start], [wish.start], support_size=SUPPORT)
        *exact, confidence = told(proposal, 0)
        drawn.append((*exact, pytest.approx(confidence, abs=1e-6)))
        tokens = [int(proposal.tokens[0])]
    return drawn


def told(proposal, row):
    size = proposal.support_sizes[row]
    q = zip(proposal.support_ids[row, :size], proposal.support_weights[row, :size], strict=True)
    return int(proposal.tokens[row]), [*q], proposal.confidence[row]


SAMPLINGS = st.one_of(
    st.just(Sampling(0.0)),
    st.builds(
        Sampling,
        st.sampled_from([0.3, 1.0, 2.0]),
        st.sampled_from([0, 1, 3]),
        st.sampled_from([0.6, 1.0]),
        st.integers(0, 2**64 - 1),
    ),
)
WISHES = st.lists(
    st.tuples(
        st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9),
        SAMPLINGS,
        st.integers(0, 3),
        st.integers(1, MOST_TOKENS),
    ),
    min_size=1,
    max_size=SLOTS,
)


@settings(max_examples=15, deadline=None)
@given(WISHES, st.booleans(), st.sampled_from([VOCABULARY, VOCABULARY - 3]))
def test_any_mix_of_requests_and_lengths_gets_the_tokens_and_weights_of_single_passes(
    requests, coupled, columns
):
    together = model()
    bursts = Bursts(EagerSteps(together, SLOTS), Rule(SUPPORT, coupled), columns=columns)
    wishes = [
        Wish(Segment(slot, 0, tokens, 1), sampling, len(tokens) - back, count)
        for slot, (tokens, sampling, back, count) in enumerate(requests)
    ]
    for wish, proposal in zip(wishes, bursts.draft(wishes), strict=True):
        expected = one_by_one(wish, coupled=coupled, columns=columns)
        assert [told(proposal, row) for row in range(wish.count)] == expected
        assert together.lengths[wish.segment.slot] == wish.position + wish.count - 1


def test_a_burst_goes_on_where_the_last_one_ended():
    together = model()
    bursts = Bursts(EagerSteps(together, SLOTS), Rule(SUPPORT), columns=VOCABULARY)
    sampling = Sampling(1.0, seed=9)
    whole = Wish(Segment(2, 0, [1, 2, 3], 1), sampling, 3, 9)
    drawn, position, tokens = [], 0, [1, 2, 3]
    for count in (4, 1, 4):
        (proposal,) = bursts.draft([Wish(Segment(2, position, tokens, 1), sampling, 3, count)])
        drawn += [told(proposal, row) for row in range(count)]
        position, tokens = together.lengths[2], [int(proposal.tokens[-1])]
    assert drawn == one_by_one(whole, coupled=False)


def test_sequences_that_end_leave_the_steps_that_others_still_need():
    steps = EagerSteps(model(), SLOTS)
    bursts = Bursts(steps, Rule(SUPPORT), columns=VOCABULARY)
    counts = [1, 4, 2, 4, 3]
    bursts.draft([Wish(Segment(slot, 0, [1], 1), Sampling(0.0), 1, n) for slot, n in enumerate(counts)])
    assert steps.fed == [4, 3, 2]


def test_a_beginning_that_a_burst_computed_is_shared():
    together = model()
    for slot in range(SLOTS):
        together.release(slot)
    slot = together.acquire(np.array([7], np.int32), "tenant")
    bursts = Bursts(EagerSteps(together, SLOTS), Rule(SUPPORT), columns=VOCABULARY)
    (proposal,) = bursts.draft([Wish(Segment(slot, 0, range(10), 1), Sampling(0.0), 10, 12)])
    other = together.acquire(np.array([*range(10), *proposal.tokens], np.int32), "tenant")
    assert together.lengths[other] == 21  # all but the last, which was not fed


@pytest.mark.parametrize("count", [0, MOST_TOKENS + 1])
def test_more_tokens_than_there_is_room_for_are_refused_before_anything_is_fed(count):
    together = model()
    bursts = Bursts(EagerSteps(together, SLOTS), Rule(SUPPORT), columns=VOCABULARY)
    with pytest.raises(ValueError, match=f"1 to {MOST_TOKENS} tokens"):
        bursts.draft([Wish(Segment(0, 0, [1], 1), Sampling(), 1, count)])
    assert together.lengths[0] == 0


def test_a_model_of_few_proposals_feeds_the_ids_of_its_columns():
    ids = torch.tensor([1, 4, 9, 16, 25])
    together = model()

    class Chosen(EagerSteps):
        def _put(self, segments):
            if segments:
                self.logits[: len(segments), : len(ids)] = together.forward(segments)[:, ids]

    bursts = Bursts(Chosen(together, SLOTS), Rule(SUPPORT, token_ids=ids), columns=len(ids))
    wish = Wish(Segment(0, 0, [3], 1), Sampling(1.5, seed=2), 1, 8)
    (proposal,) = bursts.draft([wish])
    alone, tokens = model(), [3]
    for place, drawn in enumerate(proposal.tokens):
        logits = alone.forward([Segment(0, place, tokens, 1)])[:, ids]
        here = propose(logits, [wish.sampling], [place + 1], [1], support_size=SUPPORT, token_ids=ids)
        tokens = here.tokens
        assert drawn == tokens[0]
