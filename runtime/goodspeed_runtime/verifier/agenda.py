"""What goes into a round: every draft that has arrived, and prompts in chunks between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.verification import Request
from goodspeed_runtime.protocol.wire import DraftBlock
from goodspeed_runtime.verifier.sequence import Sequence

NOTHING = DraftBlock.point_masses(())


@dataclass(frozen=True, slots=True)
class Work:
    """One segment of a round and whose it is; ``request`` is None for a prefill that goes on."""

    sequence: Sequence
    segment: Segment
    request: Request | None


def agenda(live: Iterable[Sequence], prefill_chunk_tokens: int) -> list[Work]:
    """The round's work, oldest first.

    Args:
        live: sequences with a slot.
        prefill_chunk_tokens: most prompt tokens in the round, all sequences together.
    """
    work = []
    room = prefill_chunk_tokens
    for sequence in sorted(live, key=lambda each: each.arrived):
        at = len(sequence.tokens)
        if sequence.draft is not None:
            tokens = [sequence.tokens[-1], *sequence.draft.tokens.tolist()]
            request = Request(at, sequence.draft, sequence.sampling)
            work.append(Work(sequence, Segment(sequence.slot, at - 1, tokens, len(tokens)), request))
        elif not sequence.opened and room > 0:
            chunk = sequence.tokens[sequence.filled : sequence.filled + room]
            room -= len(chunk)
            last = sequence.filled + len(chunk) == at
            segment = Segment(sequence.slot, sequence.filled, chunk, int(last))
            work.append(Work(sequence, segment, Request(at, NOTHING, sequence.sampling) if last else None))
    return work
