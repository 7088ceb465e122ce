"""Who gives up its KV slot for a sequence of another account that waits, and when.

Slots are shared by account and weight like everything else, also between two
ends of generations: who holds more for its weight than the one that waits would
hold with one more gives one up, once it has had its turn. Where there are fewer
slots than accounts they take turns. Pure: times come in.
"""

from __future__ import annotations

from collections.abc import Iterable

from goodspeed_runtime.verifier.sequence import Account, Sequence

REFILLS = 4.0
"""A turn is at least so many times as long as it took to feed the sequence's tokens."""


def victim(waiting: Sequence, live: Iterable[Sequence], now: float, turn_seconds: float) -> Sequence | None:
    """The sequence to be preempted for another, if any.

    Of the account that holds the most for its weight, and of those the one whose sequences have been here
    longest: a sequence whose draft is overdue, else the last that was let in, so that what is nearly done
    is done first.

    Args:
        waiting: first of its account.
        live: sequences with a slot; none is free.
        now: monotonic seconds.
        turn_seconds: for which a slot is kept at least, and waited for at least.

    Returns:
        None where nobody has to give way to this one, or not yet.
    """
    waited = now - waiting.since
    mine = waiting.account
    with_one_more = (mine.held + 1) / mine.weight
    eldest: dict[Account, float] = {}
    candidates = []
    for sequence in live:
        theirs = sequence.account
        eldest[theirs] = min(sequence.since, eldest.get(theirs, sequence.since))
        held = theirs.held / theirs.weight
        if theirs is mine or (mine.held and with_one_more > held):
            continue
        # An account that holds nothing comes to its turn in the end; the smaller its weight, the later.
        if waited >= turn_seconds * max(1.0, with_one_more / held) and _has_had(sequence, now, turn_seconds):
            candidates.append(sequence)

    def order(sequence: Sequence) -> tuple[float, float, bool, float]:
        theirs = sequence.account
        overdue = sequence.awaited and now > sequence.due
        return theirs.held / theirs.weight, -eldest[theirs], overdue, sequence.since

    return max(candidates, key=order, default=None)


def _has_had(sequence: Sequence, now: float, turn: float) -> bool:
    """Whether a turn is over: some tokens more, for at least the time, and the prefill was worth it."""
    if sequence.filling or not sequence.progressed:
        return False
    return now - sequence.ready >= max(turn, REFILLS * (sequence.ready - sequence.since))
