"""A frame's drafts checked together, and what wakes the compute thread."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import pack_tokens
from goodspeed_runtime.verifier.inbox import Inbox
from goodspeed_runtime.verifier.messages import RefusedError, check_draft, check_drafts
from goodspeed_runtime.verifier.sequence import Account, Client

IDS, LONGEST = 50, 4
DRAFTS = st.builds(
    lambda key, position, tokens, rest, held: pb.Draft(
        sequence=key, position=position, tokens=pack_tokens(tokens) + rest, held_us=held
    ),
    st.integers(0, 3),
    st.integers(0, 1000),
    st.lists(st.integers(0, IDS), max_size=LONGEST + 1),
    st.sampled_from([b"", b"", b"", b"x"]),
    st.integers(0, 5000),
)
GOOD = st.builds(
    lambda key, tokens: pb.Draft(sequence=key, position=7, tokens=pack_tokens(tokens)),
    st.integers(1, 9),
    st.lists(st.integers(0, IDS - 1), max_size=LONGEST),
)


@given(st.lists(DRAFTS | GOOD, max_size=6) | st.lists(GOOD, max_size=6))
def test_drafts_checked_together_are_what_they_are_one_by_one(drafts):
    arrivals, refusals = check_drafts(drafts, IDS, LONGEST)
    passed, refused = [], []
    for draft in drafts:
        try:
            passed.append((draft, check_draft(draft, IDS, LONGEST)))
        except RefusedError as error:
            refused.append((error.sequence, error.code, str(error)))
    assert [(error.sequence, error.code, str(error)) for error in refusals] == refused
    assert len(arrivals) == len(passed)
    for arrival, (draft, block) in zip(arrivals, passed, strict=True):
        assert (arrival.key, arrival.position) == (draft.sequence, draft.position)
        assert arrival.held == pytest.approx(draft.held_us / 1e6)
        np.testing.assert_array_equal(arrival.draft.tokens, block.tokens)
        np.testing.assert_array_equal(arrival.draft.support_sizes, block.support_sizes)
        assert not arrival.draft.support_ids.size


class Waiter:
    """A compute thread that waits for so many drafts."""

    def __init__(self, drafts):
        self.inbox = Inbox()
        self.client = Client("client", "pool", Account("client", 1.0), 4, lambda frame: None)
        self._thread = threading.Thread(target=self.inbox.wait, args=(30, drafts))
        self._thread.start()
        while not self.inbox._patience:
            time.sleep(0.001)

    def wakes(self, seconds):
        self._thread.join(seconds)
        return not self._thread.is_alive()


def test_drafts_wake_the_compute_thread_once_there_are_as_many_as_it_waits_for():
    waiter = Waiter(5)
    waiter.inbox.post(waiter.client, lambda: None, drafts=3)
    assert not waiter.wakes(0.1)
    waiter.inbox.post(waiter.client, lambda: None, drafts=2)
    assert waiter.wakes(10)
    assert waiter.client.pending == 5
    assert waiter.inbox.carry_out()
    assert waiter.client.pending == 0


def test_whatever_is_no_draft_wakes_it_at_once():
    waiter = Waiter(5)
    waiter.inbox.post(waiter.client, lambda: None)
    assert waiter.wakes(10)
