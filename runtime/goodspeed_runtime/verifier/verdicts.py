"""From a verdict to committed tokens and the frame that tells the drafter."""

from __future__ import annotations

from collections.abc import Iterator

from goodspeed_runtime.decoding.commitment import Commitment, FinishReason, commit
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.verifier.sequence import Client, Sequence

_FINISH: dict[FinishReason | None, pb.Finish] = {
    None: pb.FINISH_NONE,
    "stop": pb.FINISH_STOP,
    "length": pb.FINISH_LENGTH,
}
_MOST_US = (1 << 32) - 1

Reply = pb.Opened | pb.Verdict


class Replies:
    """The answers of one round, coalesced to one frame a client."""

    def __init__(self, started: float, round_us: int) -> None:
        self._started = started
        self._round_us = min(round_us, _MOST_US)
        self._replies: dict[Sequence, Reply] = {}

    def add(self, sequence: Sequence, reply: Reply, *, timed: bool) -> None:
        """Keeps the answer to ``sequence``, with the times of this round where something waited for it."""
        if timed:
            queued = max(0, round(1e6 * (self._started - sequence.arrived)))
            reply.timings.queued_us = min(queued, _MOST_US)
            reply.timings.round_us = self._round_us
        self._replies[sequence] = reply

    def finished(self, sequence: Sequence) -> bool:
        """Whether the answer ends the sequence."""
        return self._replies[sequence].finish != pb.FINISH_NONE

    def grant(self, sequence: Sequence, least_chance: float) -> None:
        """Puts the sequence's new grant into its answer, and from what chance on a token is worth it."""
        reply = self._replies[sequence]
        reply.grant = sequence.grant
        if sequence.grant:
            reply.least_chance = int(100 * least_chance)

    def frames(self) -> Iterator[tuple[Client, pb.VerifierFrame]]:
        """One frame for each client that has answers."""
        frames: dict[Client, pb.VerifierFrame] = {}
        for sequence, reply in self._replies.items():
            frame = frames.get(sequence.client)
            if frame is None:
                frame = frames[sequence.client] = pb.VerifierFrame()
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
        timed=True,
    )


def commit_verdict(
    sequence: Sequence, accepted: int, token: int, max_context: int, replies: Replies, *, overtakes: bool
) -> Commitment:
    """Commits what stands of a draft, or of none, and the token after it.

    A draft that is still out stays granted; one that was answered is spent.
    """
    position = len(sequence.tokens)
    drafted = [] if sequence.draft is None else sequence.draft.tokens.tolist()
    outcome = commit(
        drafted, accepted, token, stop_tokens=sequence.stop_tokens, room=sequence.room(max_context)
    )
    sequence.tokens.extend(drafted[: outcome.accepted])
    verdict = pb.Verdict(
        sequence=sequence.key,
        position=position,
        accepted=outcome.accepted,
        finish=_FINISH[outcome.finish],
        draft_awaited=overtakes,
    )
    if outcome.next_token is not None:
        sequence.tokens.append(outcome.next_token)
        verdict.next_token = outcome.next_token
        verdict.has_next_token = True
    replies.add(sequence, verdict, timed=sequence.draft is not None)
    if not overtakes:
        sequence.draft = None
        sequence.grant = 0
        sequence.set_aside = False
    return outcome
