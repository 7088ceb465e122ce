"""When rounds start, and who is in them without a draft."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.verifier.admission import LONGEST_WAIT_SECONDS, Barrier, Continuous, View

PASS = 0.015


def view(*, ready=0, alone=0, out=(), acceptance=0.8, tokens=4, since=0.0, chosen=None, token_seconds=0.0):
    """A view in which every draft is of `tokens` tokens, and those in `out` are due after so many seconds."""
    count = len(out)
    expected = (1 - acceptance ** (tokens + 1)) / (1 - acceptance)
    return View(
        ready_tokens=ready * expected,
        ready=ready,
        alone=alone,
        due=np.array(out, dtype=float),
        since=np.full(count, since),
        expected=np.full(count, expected),
        acceptance=np.full(count, acceptance),
        pass_seconds=PASS,
        token_seconds=token_seconds,
        chosen=chosen,
    )


def test_a_round_starts_at_once_when_no_draft_is_out():
    assert Continuous().decide(view(ready=3)).wait == 0
    assert Continuous().decide(view(alone=1)).wait == 0


def test_drafts_about_to_arrive_are_worth_a_wait_for_all_of_them():
    decision = Continuous().decide(view(ready=1, out=[0.001, 0.002, 0.003]))
    assert decision.wait == pytest.approx(0.003)
    assert decision.arrivals == 3


def test_a_straggler_is_not_waited_for():
    assert Continuous().decide(view(ready=7, out=[0.2])).wait == 0


def test_a_straggler_gets_its_own_token_in_every_round():
    assert Continuous().decide(view(ready=7, out=[0.2])).join.tolist() == [True]


def test_a_sequence_that_goes_on_alone_does_not_start_a_pass_that_all_others_would_wait_for():
    decision = Continuous().decide(view(alone=1, out=[0.008] * 7))
    assert decision.wait == pytest.approx(0.008)


def test_a_pass_of_single_tokens_fills_the_time_that_drafts_take_to_come():
    """A round trip of 80 ms is five passes long: waiting for it would be slower than plain decoding."""
    decision = Continuous().decide(view(out=[0.08] * 4))
    assert decision.wait == 0
    assert decision.join.all()


def test_where_many_share_a_pass_that_grows_with_its_tokens_only_late_sequences_get_their_own():
    crowd = view(ready=60, out=[0.005, 0.3], token_seconds=0.001)
    assert Continuous().decide(crowd).join.tolist() == [False, True]


def test_the_schedulers_deadline_bounds_the_wait():
    assert Continuous().decide(view(ready=1, out=[0.004] * 7, chosen=0.001)).wait == 0
    assert Continuous().decide(view(ready=1, out=[0.004] * 7, chosen=0.005)).wait > 0


@given(
    ready=st.integers(0, 5),
    alone=st.integers(0, 3),
    out=st.lists(st.floats(0, 2), max_size=6),
    acceptance=st.floats(0.01, 0.99),
    tokens=st.integers(1, 16),
    since=st.floats(0, 3),
    token_seconds=st.floats(0, 0.01),
)
def test_no_sequence_waits_longer_than_plain_decoding_would_have_taken_for_as_much(
    ready, alone, out, acceptance, tokens, since, token_seconds
):
    if not (ready or alone or out):
        return
    seen = view(
        ready=ready,
        alone=alone,
        out=out,
        acceptance=acceptance,
        tokens=tokens,
        since=since,
        token_seconds=token_seconds,
    )
    decision = Continuous().decide(seen)
    assert 0 <= decision.wait <= LONGEST_WAIT_SECONDS
    assert 1 <= decision.arrivals <= max(1, len(out))
    late = since + seen.due > PASS * (seen.expected - 1)
    assert decision.join[late].all()


def test_a_barrier_waits_for_every_draft_and_for_nothing_else():
    waits = Barrier().decide(view(ready=7, alone=1, out=[0.2]))
    assert (waits.wait, waits.arrivals, waits.join.tolist()) == (np.inf, 1, [False])
    assert Barrier().decide(view(ready=8)).wait == 0
