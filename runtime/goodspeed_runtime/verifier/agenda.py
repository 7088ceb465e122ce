"""What goes into a round: every draft that has arrived, tokens without drafts, and prompts in chunks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.verification import Request
from goodspeed_runtime.verifier.sequence import NOTHING, Sequence


@dataclass(frozen=True, slots=True)
class Work:
    """One segment of a round and whose it is.

    Attributes:
        sequence: whose.
        segment: the tokens to feed.
        request: what to verify; None for a prefill that goes on.
        overtakes: a draft of the sequence is still out.
    """

    sequence: Sequence
    segment: Segment
    request: Request | None
    overtakes: bool = False


def agenda(live: Iterable[Sequence], joining: Collection[Sequence], prefill_chunk_tokens: int) -> list[Work]:
    """The round's work, oldest first.

    Args:
        live: sequences with a slot.
        joining: those of them that get a token of the verifier's own though their draft is out.
        prefill_chunk_tokens: most prompt tokens in the round, all sequences together.
    """
    work = []
    room = prefill_chunk_tokens
    for sequence in sorted(live, key=lambda each: each.arrived):
        at = len(sequence.tokens)
        if sequence.opened:
            awaited = sequence.awaited
            if awaited and sequence not in joining:
                continue
            draft = sequence.draft or NOTHING
            tokens = [sequence.tokens[-1], *draft.tokens.tolist()]
            request = Request(at, draft, sequence.sampling)
            work.append(Work(sequence, Segment(sequence.slot, at - 1, tokens, len(tokens)), request, awaited))
        elif room > 0:
            chunk = sequence.tokens[sequence.filled : sequence.filled + room].tolist()
            room -= len(chunk)
            last = sequence.filled + len(chunk) == at
            segment = Segment(sequence.slot, sequence.filled, chunk, int(last))
            work.append(Work(sequence, segment, Request(at, NOTHING, sequence.sampling) if last else None))
    return work
