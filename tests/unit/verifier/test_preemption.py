"""Slots are shared by account and weight, each for a turn at least, and nobody waits for ever."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.protocol.wire import DraftBlock
from goodspeed_runtime.verifier.preemption import REFILLS, victim
from goodspeed_runtime.verifier.sequence import NOTHING, Account, Client, Sequence, compact
from goodspeed_runtime.verifier.waiting import WaitingRoom

TURN = 2.0
NOW = 100.0


def sequence(account, *, since=0.0, refill=0.0, tokens=5, key=1):
    """One that has a slot, and has got some tokens since."""
    client = Client("d", "p", account, 8, lambda _: None)
    one = Sequence(client, account, key, compact(range(3)), 3, 99, Sampling(0.0), frozenset(), since)
    one.sit_down(0, 0, since)
    one.fed(3, since + refill)
    one.opened = True
    one.tokens.extend(range(tokens))
    account.held += 1
    return one


def waiting(account, since=0.0):
    one = sequence(account, since=since)
    account.held -= 1
    one.slot = -1
    return one


def test_the_account_most_over_its_share_gives_up_the_sequence_that_came_last():
    rich, poor = Account("rich", 1.0), Account("poor", 1.0)
    live = [sequence(rich, since=at) for at in (1.0, 5.0, 3.0)] + [sequence(poor)]
    assert victim(waiting(Account("new", 1.0)), live, NOW, TURN) is live[1]


def test_a_sequence_whose_draft_is_overdue_goes_first():
    rich = Account("rich", 1.0)
    live = [sequence(rich, since=at) for at in (1.0, 5.0)]
    live[0].grant, live[0].due = 3, NOW - 1
    assert victim(waiting(Account("new", 1.0)), live, NOW, TURN) is live[0]


def test_nobody_is_preempted_for_an_account_that_would_then_have_more():
    one, two = Account("one", 1.0), Account("two", 1.0)
    live = [sequence(one), sequence(one), sequence(two), sequence(two)]
    assert victim(waiting(one), live, NOW, TURN) is None


def test_weights_count():
    light, heavy = Account("light", 1.0), Account("heavy", 3.0)
    live = [sequence(light) for _ in range(2)] + [sequence(heavy), sequence(heavy)]
    assert victim(waiting(heavy), live, NOW, TURN) in live[:2]
    assert victim(waiting(light), live, NOW, TURN) is None


def test_an_account_without_a_slot_gets_its_turn_the_later_the_smaller_its_weight():
    light, heavy = Account("light", 1.0), Account("heavy", 4.0)
    live = [sequence(heavy)]
    assert victim(waiting(light, since=NOW - 3.9 * TURN), live, NOW, TURN) is None
    assert victim(waiting(light, since=NOW - 4.1 * TURN), live, NOW, TURN) is live[0]


@pytest.mark.parametrize(
    ("since", "refill", "tokens", "waited", "preempted"),
    [
        (10.0, 0.0, 5, 10.0, True),
        (10.0, 0.0, 5, 1.9, False),  # has hardly waited
        (1.9, 0.0, 5, 10.0, False),  # has hardly begun
        (10.0, 0.0, 1, 10.0, False),  # has got nothing but its first token
        (10.0, 2.1, 5, 10.0, False),  # its prefill took long: it must have been worth it
        (11.0, 2.1, 5, 10.0, True),
    ],
)
def test_a_turn_is_kept_and_waited_for(since, refill, tokens, waited, preempted):
    assert REFILLS == 4
    holder = sequence(Account("a", 1.0), since=NOW - since, refill=refill, tokens=tokens)
    chosen = victim(waiting(Account("b", 1.0), since=NOW - waited), [holder], NOW, TURN)
    assert (chosen is holder) == preempted


def test_a_prompt_under_way_is_finished():
    holder = sequence(Account("a", 1.0))
    holder.filled = 1
    assert victim(waiting(Account("b", 1.0)), [holder], NOW, TURN) is None


@settings(deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=2, max_size=5),
    slots=st.integers(1, 6),
    each=st.integers(1, 6),
)
def test_slots_over_time_follow_the_weights_and_no_account_starves(weights, slots, each):
    """Generations that never end; every tick is half a turn."""
    accounts = [Account(str(n), weight) for n, weight in enumerate(weights)]
    room, live, ticks = WaitingRoom(), [], 400
    for account in accounts:
        for _ in range(each):
            room.add(waiting(account, since=0.0))
    served, now, preemptions = dict.fromkeys(accounts, 0), 0.0, 0
    for _ in range(ticks):
        now += TURN / 2
        for one in live:
            one.tokens.append(1)
        while True:
            found = (
                (one, None if len(live) < slots else victim(one, live, now, TURN)) for one in room.turns(now)
            )
            next_one, other = next((f for f in found if f[1] or len(live) < slots), (None, None))
            if next_one is None:
                break
            if other is not None:
                live.remove(other)
                other.account.held -= 1
                other.stand_up()
                other.since = now
                room.put_back(other)
                preemptions += 1
            room.remove(next_one)
            next_one.sit_down(0, len(next_one.tokens) - 1, now)
            next_one.account.held += 1
            live.append(next_one)
        for account in accounts:
            served[account] += account.held
    total = sum(weights)
    assert preemptions <= slots * ticks / 2  # each slot changes hands once a turn at most
    for account in accounts:
        fair = min(each, slots * account.weight / total)
        # A whole slot more or less is what whole slots cannot divide.
        assert served[account] / ticks >= max(min(fair, 1) / 4, fair - 1.5)


def test_a_preempted_sequence_is_its_accounts_next():
    room, account = WaitingRoom(), Account("a", 1.0)
    first, second, back = (waiting(account, since=at) for at in (1.0, 2.0, 3.0))
    room.add(first)
    room.add(second)
    room.put_back(back)
    order = []
    while room:
        order += room.turns(9.0)
        room.remove(order[-1])
    assert order == [back, first, second]


def test_a_draft_for_a_preempted_sequence_is_set_aside_whenever_it_comes():
    block = DraftBlock.point_masses([1, 2])
    here, on_its_way, none = (sequence(Account("a", 1.0)) for _ in range(3))
    for one in (here, on_its_way):
        one.grant, one.granted_at = 2, len(one.tokens)
    here.take(block, len(here.tokens))
    for one in (here, on_its_way, none):
        one.stand_up()
        assert one.in_flight == 0
    on_its_way.take(block, len(on_its_way.tokens))
    assert here.draft is on_its_way.draft is NOTHING
    assert here.sent == on_its_way.sent == 2
    assert none.draft is None
    assert not none.set_aside
