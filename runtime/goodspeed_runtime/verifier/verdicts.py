"""From a verdict to committed tokens and the frame that tells the drafter."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Many

from goodspeed_runtime.decoding.commitment import Commitment, FinishReason, commit
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.verifier.sequence import Client, Sequence

_FINISH: dict[FinishReason, pb.Finish] = {"stop": pb.FINISH_STOP, "length": pb.FINISH_LENGTH}
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

    def grant(self, sequence: Sequence, least_chance: float) -> None:
        """Puts the sequence's new grant into its answer, and from what chance on a token is worth it."""
        if grant := sequence.grant:
            reply = self._replies[sequence]
            reply.grant = grant
            if percent := int(100 * least_chance):
                reply.least_chance = percent

    def frames(self) -> Iterable[tuple[Client, pb.VerifierFrame]]:
        """One frame for each client that has answers."""
        return self._frames.items()


def commit_first(sequence: Sequence, token: int, max_context: int, replies: Replies) -> Commitment:
    """Commits the token that the prefill itself gives."""
    position = len(sequence.tokens)
    outcome = commit([], 0, token, stop_tokens=sequence.stop_tokens, room=sequence.room(max_context))
    sequence.tokens.append(token)
    sequence.opened = True
    sequence.grant = 0
    opened = replies.frame(sequence.client).opened.add(sequence=sequence.key, position=position, token=token)
    if outcome.finish is not None:
        opened.finish = _FINISH[outcome.finish]
    replies.add(sequence, opened)
    return outcome


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
    tokens = sequence.tokens
    position = len(tokens)
    outcome = commit(
        drafted, accepted, token, stop_tokens=sequence.stop_tokens, room=sequence.room(max_context)
    )
    stands, last = outcome.accepted, outcome.next_token
    if stands:
        tokens.extend(drafted[:stands])
    if last is not None:
        tokens.append(last)
    verdict = replies.frame(sequence.client).verdicts.add(
        sequence=sequence.key,
        position=position,
        accepted=stands,
        next_token=last,
        has_next_token=last is not None,
    )
    # What is not said costs nothing, neither here nor on the wire.
    if outcome.finish is not None:
        verdict.finish = _FINISH[outcome.finish]
    if overtakes:
        verdict.draft_awaited = True
    replies.add(sequence, verdict)
    if not overtakes:
        sequence.draft = None
        sequence.grant = 0
        sequence.set_aside = False
    return outcome
