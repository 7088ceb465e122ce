"""When the next round starts: at once, or a moment later with more drafts in it.

A pass costs nearly the same for one draft as for ten, so a draft that is about
to arrive is worth a short wait; one that is late is not, and joins the next
round. Pure: times come in, a wait comes out.
"""

from __future__ import annotations


def seconds_to_wait(
    *,
    ready: int,
    expected: int,
    since_first: float,
    recent_round: float,
    gather_fraction: float,
    since_round: float = 0.0,
    chosen: float | None = None,
) -> float:
    """How much longer to wait for drafts before a round starts.

    Args:
        ready: sequences with work for the round.
        expected: sequences whose next draft is still out.
        since_first: seconds since the first of the ready ones arrived.
        recent_round: seconds a recent round took.
        gather_fraction: share of ``recent_round`` that a round may wait.
        since_round: seconds since the last round's verdicts went out.
        chosen: seconds after those verdicts at which the scheduler wants the round to start, where
            it has chosen them; the share then says nothing.

    Returns:
        Seconds, 0 to start at once. Meaningless when nothing is ready.
    """
    if ready == 0 or expected == 0:
        return 0.0
    if chosen is not None:
        return max(0.0, chosen - since_round)
    return max(0.0, gather_fraction * recent_round - since_first)
