"""Drafts that the verifier has overtaken, and what an idle sequence weighs."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.protocol.wire import DraftBlock
from goodspeed_runtime.verifier.sequence import Account, Client, Sequence, compact

TOKENS = st.lists(st.integers(0, 2), max_size=5)


def sequence(tokens):
    client = Client("d", "p", Account("d", 1.0), 8, lambda _: None)
    return Sequence(client, client.account, 1, compact(tokens), 1, 9, Sampling(0.0), frozenset(), 0.0)


@given(TOKENS, TOKENS, TOKENS)
def test_of_a_draft_that_was_overtaken_what_still_follows_the_committed_tokens_counts(
    before, committed, drafted
):
    overtaken = sequence([7, *before, *committed])
    sizes = [1] * len(drafted)
    block = DraftBlock(*(np.array(column, np.int32) for column in (drafted, sizes, drafted, sizes)))
    overtaken.take(block, 1 + len(before))
    kept = drafted[len(committed) :] if drafted[: len(committed)] == committed else []
    assert overtaken.draft.tokens.tolist() == overtaken.draft.support_ids.tolist() == kept
    assert overtaken.sent == len(drafted)


@pytest.mark.parametrize("here", [False, True], ids=["on its way", "here"])
def test_a_sequence_that_loses_its_slot_keeps_its_tokens_and_needs_no_budget_for_its_draft(here):
    preempted, block = sequence([7, 1, 2]), DraftBlock.point_masses([1, 2, 0])
    preempted.sit_down(0, 3, 0.0)
    preempted.allow(0.0, 3, 0.0, 1.0, 0.5)
    assert preempted.in_flight == 3
    if here:
        preempted.take(block, 3)
    preempted.stand_up()
    assert preempted.in_flight == 0
    if not here:
        assert preempted.awaited
        preempted.take(block, 3)
    assert len(preempted.draft) == 0
    assert (preempted.tokens.tolist(), preempted.grant, preempted.slot) == ([7, 1, 2], 3, -1)


def test_a_sequence_that_loses_its_slot_without_a_draft_out_has_none_set_aside():
    preempted = sequence([7, 1, 2])
    preempted.sit_down(0, 3, 0.0)
    preempted.stand_up()
    preempted.allow(1.0, 2, 0.0, 1.0, 0.5)
    assert preempted.in_flight == 2


def test_an_idle_sequence_of_five_hundred_tokens_weighs_less_than_four_kibibytes():
    one = sequence(range(1000, 1500))
    one.tokens.append(1500)
    parts = [one, one.tokens, one.sampling, one.stop_tokens, one.arrived, one.due, one.expected]
    assert sum(sys.getsizeof(part) for part in parts) < 4096
