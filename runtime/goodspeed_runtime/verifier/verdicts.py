"""From a verdict to committed tokens and the frame that tells the drafter."""

from __future__ import annotations

from collections.abc import Iterator

from goodspeed_runtime.decoding.commitment import FinishReason, commit
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.verifier.sequence import Client, Sequence

_FINISH: dict[FinishReason | None, pb.Finish] = {
    None: pb.FINISH_NONE,
    "stop": pb.FINISH_STOP,
    "length": pb.FINISH_LENGTH,
}

Reply = pb.Opened | pb.Verdict


class Replies:
    """The answers of one round, coalesced to one frame a client."""

    def __init__(self, started: float, round_us: int) -> None:
        self._started = started
        self._round_us = round_us
        self._replies: dict[Sequence, Reply] = {}

    def add(self, sequence: Sequence, reply: Reply) -> None:
        """Keeps the answer to ``sequence``, with the times of this round."""
        queued = max(0, round(1e6 * (self._started - sequence.arrived)))
        reply.timings.queued_us = min(queued, (1 << 32) - 1)
        reply.timings.round_us = min(self._round_us, (1 << 32) - 1)
        self._replies[sequence] = reply

    def finished(self, sequence: Sequence) -> bool:
        """Whether the answer ends the sequence."""
        return self._replies[sequence].finish != pb.FINISH_NONE

    def grant(self, sequence: Sequence) -> None:
        """Puts the sequence's new grant into its answer."""
        self._replies[sequence].grant = sequence.grant

    def frames(self) -> Iterator[tuple[Client, pb.VerifierFrame]]:
        """One frame for each client that has answers."""
        frames: dict[Client, pb.VerifierFrame] = {}
        for sequence, reply in self._replies.items():
            frame = frames.setdefault(sequence.client, pb.VerifierFrame())
            if isinstance(reply, pb.Opened):
                frame.opened.append(reply)
            else:
                frame.verdicts.append(reply)
        return iter(frames.items())


def commit_first(sequence: Sequence, token: int, max_context: int, replies: Replies) -> None:
    """Commits the token that the prefill itself gives."""
    position = len(sequence.tokens)
    outcome = commit([], 0, token, stop_tokens=sequence.stop_tokens, room=sequence.room(max_context))
    sequence.tokens.append(token)
    sequence.opened = True
    sequence.grant = 0
    replies.add(
        sequence,
        pb.Opened(sequence=sequence.key, position=position, token=token, finish=_FINISH[outcome.finish]),
    )


def commit_draft(sequence: Sequence, accepted: int, token: int, max_context: int, replies: Replies) -> int:
    """Commits what stands of a draft and the token after it; returns how many tokens that is."""
    assert sequence.draft is not None
    position = len(sequence.tokens)
    drafted = sequence.draft.tokens.tolist()
    outcome = commit(
        drafted, accepted, token, stop_tokens=sequence.stop_tokens, room=sequence.room(max_context)
    )
    sequence.tokens.extend(drafted[: outcome.accepted])
    verdict = pb.Verdict(
        sequence=sequence.key,
        position=position,
        accepted=outcome.accepted,
        finish=_FINISH[outcome.finish],
    )
    if outcome.next_token is not None:
        sequence.tokens.append(outcome.next_token)
        verdict.next_token = outcome.next_token
        verdict.has_next_token = True
    sequence.draft = None
    sequence.grant = 0
    replies.add(sequence, verdict)
    return outcome.count
