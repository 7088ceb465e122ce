"""What goes into a round: every draft that has arrived, tokens without drafts, and prompts in chunks.

Tokens of a sequence that was preempted are fed again like those of a prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from operator import attrgetter

from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.verification import Request
from goodspeed_runtime.verifier.prefill import PrefillLimit, Prompt, divide, foremost
from goodspeed_runtime.verifier.sequence import NOTHING, Sequence


@dataclass(slots=True)
class Work:
    """One segment of a round and whose it is.

    Attributes:
        sequence: whose.
        segment: the tokens to feed.
        request: what to verify; None for a prefill that goes on.
        drafted: ids of the draft that is verified.
        overtakes: a draft of the sequence is still out.
    """

    sequence: Sequence
    segment: Segment
    request: Request | None
    drafted: Many[int] = ()
    overtakes: bool = False


def agenda(live: Iterable[Sequence], joining: Collection[Sequence], limit: PrefillLimit) -> list[Work]:
    """The round's work, oldest first, prompts last.

    Args:
        live: sequences with a slot.
        joining: those of them that get a token of the verifier's own though their draft is out.
        limit: what prompts may cost.
    """
    work, prompts = [], []
    for sequence in sorted(live, key=attrgetter("arrived")):
        if sequence.filling:
            prompts.append(sequence)
            continue
        draft = sequence.draft
        awaited = draft is None and sequence.grant > 0
        if awaited and sequence not in joining:
            continue
        at = len(sequence.tokens)
        drafted: list[int] = [] if draft is None else draft.tokens.tolist()
        tokens = [sequence.tokens[-1], *drafted]
        request = Request(at, NOTHING if draft is None else draft, sequence.sampling)
        segment = Segment(sequence.slot, at - 1, tokens, len(tokens))
        work.append(Work(sequence, segment, request, drafted, awaited))
    if prompts:
        work += _chunks(foremost(prompts), limit.room(sum(len(item.segment.tokens) for item in work)))
    return work


def _chunks(prompts: list[Sequence], room: int) -> list[Work]:
    """The next tokens of prompts; the last ones of a new sequence ask for the token after them."""
    work = []
    shares = divide(room, [Prompt(s.account, s.account.weight, s.prefill - s.filled) for s in prompts])
    for sequence, count in zip(prompts, shares, strict=True):
        if not count:
            continue
        end = sequence.filled + count
        last = end == sequence.prefill and not sequence.opened
        chunk = sequence.tokens[sequence.filled : end].tolist()
        request = Request(end, NOTHING, sequence.sampling) if last else None
        work.append(Work(sequence, Segment(sequence.slot, sequence.filled, chunk, int(last)), request))
    return work
