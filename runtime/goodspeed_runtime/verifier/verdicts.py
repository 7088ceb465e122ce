"""From a verdict to committed tokens and the frame that tells the drafter."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Many

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

    def __init__(self, round_us: int) -> None:
        self._round_us = min(round_us, _MOST_US)
        self._frames: dict[Client, pb.VerifierFrame] = {}
        self._replies: dict[Sequence, Reply] = {}

    def frame(self, client: Client) -> pb.VerifierFrame:
        """What the client will get."""
        frame = self._frames.get(client)
        if frame is None:
            frame = self._frames[client] = pb.VerifierFrame(round_us=self._round_us)
        return frame

    def add(self, sequence: Sequence, reply: Reply) -> None:
        """Keeps the answer to ``sequence``, which is in its client's frame, for its grant."""
        self._replies[sequence] = reply

    def finished(self, sequence: Sequence) -> bool:
        """Whether the answer ends the sequence."""
        return self._replies[sequence].finish != pb.FINISH_NONE

    def grant(self, sequence: Sequence, least_chance: float) -> None:
        """Puts the sequence's new grant into its answer, and from what chance on a token is worth it."""
        if sequence.grant:
            reply = self._replies[sequence]
            reply.grant = sequence.grant
            reply.least_chance = int(100 * least_chance)

    def frames(self) -> Iterable[tuple[Client, pb.VerifierFrame]]:
        """One frame for each client that has answers."""
        return self._frames.items()


def commit_first(sequence: Sequence, token: int, max_context: int, replies: Replies) -> None:
    """Commits the token that the prefill itself gives."""
    position = len(sequence.tokens)
    outcome = commit([], 0, token, stop_tokens=sequence.stop_tokens, room=sequence.room(max_context))
    sequence.tokens.append(token)
    sequence.opened = True
    sequence.grant = 0
    opened = replies.frame(sequence.client).opened
    finish = _FINISH[outcome.finish]
    replies.add(sequence, opened.add(sequence=sequence.key, position=position, token=token, finish=finish))


def commit_verdict(
    sequence: Sequence,
    drafted: Many[int],
    accepted: int,
    token: int,
    max_context: int,
    replies: Replies,
    *,
    overtakes: bool,
) -> Commitment:
    """Commits what stands of a draft, or of none, and the token after it.

    A draft that is still out stays granted; one that was answered is spent.
    """
    position = len(sequence.tokens)
    outcome = commit(
        drafted, accepted, token, stop_tokens=sequence.stop_tokens, room=sequence.room(max_context)
    )
    if outcome.accepted:
        sequence.tokens.extend(drafted[: outcome.accepted])
    if outcome.next_token is not None:
        sequence.tokens.append(outcome.next_token)
    verdict = replies.frame(sequence.client).verdicts.add(
        sequence=sequence.key,
        position=position,
        accepted=outcome.accepted,
        next_token=outcome.next_token,
        has_next_token=outcome.next_token is not None,
        finish=_FINISH[outcome.finish],
        draft_awaited=overtakes,
    )
    replies.add(sequence, verdict)
    if not overtakes:
        sequence.draft = None
        sequence.grant = 0
        sequence.set_aside = False
    return outcome
