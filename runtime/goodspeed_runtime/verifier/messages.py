"""What a drafter may say: everything that can be wrong with a message on its own.

What depends on a sequence's state is the engine's to judge.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import (
    PROTOCOL_VERSION,
    TOKEN_BYTES,
    DraftBlock,
    WireError,
    unpack_draft,
    unpack_tokens,
)
from goodspeed_runtime.verifier.sequence import Account, Client, Sequence, compact

STOP_TOKENS = 1024
_NAME_LIMIT = 253
_WEIGHTS = (1e-6, 1e6)


@dataclass(frozen=True, slots=True)
class Target:
    """What drafters must agree with.

    Attributes:
        model_fingerprint: of the weights.
        tokenizer_fingerprint: of the vocabulary and what maps text to it.
        vocabulary_size: ids the tokenizer can produce.
        model_ids: ids the model knows; more than the tokenizer's where its matrices are padded, fewer
            where somebody added a token that it was never taught.
    """

    model_fingerprint: str
    tokenizer_fingerprint: str
    vocabulary_size: int
    model_ids: int


class RefusedError(Exception):
    """A message breaks the protocol; ``sequence`` 0 ends the stream."""

    def __init__(self, code: pb.ErrorCode, message: str, sequence: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.sequence = sequence

    def frame(self) -> pb.VerifierFrame:
        """The error as the drafter gets it."""
        return pb.VerifierFrame(errors=[pb.Error(sequence=self.sequence, code=self.code, message=str(self))])


def check_hello(hello: pb.Hello, target: Target) -> None:
    """Whether a drafter can work with this target.

    Raises:
        RefusedError: it cannot; the message names what differs on both sides.
    """
    if hello.protocol_version != PROTOCOL_VERSION:
        raise RefusedError(
            pb.PROTOCOL_VERSION_UNSUPPORTED,
            f"the drafter speaks protocol version {hello.protocol_version}, this verifier {PROTOCOL_VERSION}",
        )
    if not 0 < len(hello.drafter) <= _NAME_LIMIT or len(hello.pool) > _NAME_LIMIT:
        raise RefusedError(pb.MALFORMED, f"hello.drafter must be a name of 1 to {_NAME_LIMIT} characters")
    if not _WEIGHTS[0] <= hello.weight <= _WEIGHTS[1]:
        raise RefusedError(
            pb.MALFORMED, f"hello.weight is {hello.weight}; it must lie in {_WEIGHTS[0]:g} to {_WEIGHTS[1]:g}"
        )
    mine = (target.vocabulary_size, target.tokenizer_fingerprint)
    theirs = (hello.vocabulary_size, hello.tokenizer_fingerprint)
    if mine != theirs:
        raise RefusedError(
            pb.VOCABULARY_MISMATCH,
            f"drafter {hello.drafter!r} ({hello.draft_model}) has a vocabulary of {theirs[0]} ids, tokenizer "
            f"{theirs[1] or 'unnamed'}; the target has {mine[0]} ids, tokenizer {mine[1]}: "
            "choose a draft model with the target's tokenizer",
        )


def check_open(
    message: pb.Open, client: Client, tenants: Mapping[str, Account], model_ids: int, max_context: int
) -> Sequence:
    """A sequence from the network, checked.

    Raises:
        RefusedError: something in it cannot be.
    """
    key = message.sequence
    if key == 0:
        raise RefusedError(pb.MALFORMED, "open.sequence must not be 0")
    try:
        tokens = unpack_tokens(message.tokens)
        stops = unpack_tokens(message.stop_tokens)
    except WireError as error:
        raise RefusedError(pb.MALFORMED, f"open: {error}", key) from error
    if tokens.size == 0 or not 0 < message.prompt_tokens <= tokens.size:
        raise RefusedError(
            pb.MALFORMED,
            f"open.prompt_tokens is {message.prompt_tokens} of {tokens.size} tokens; it must be 1 or more",
            key,
        )
    if stops.size > STOP_TOKENS:
        raise RefusedError(
            pb.MALFORMED, f"open.stop_tokens holds {stops.size} ids; at most {STOP_TOKENS} are kept", key
        )
    if int(tokens.max()) >= model_ids:
        raise RefusedError(
            pb.INVALID_TOKEN,
            f"open.tokens holds {int(tokens.max())}, outside the vocabulary of {model_ids}",
            key,
        )
    if tokens.size >= max_context:
        raise RefusedError(
            pb.PROMPT_TOO_LONG,
            f"{tokens.size} tokens leave no room in a context of {max_context}: send fewer",
            key,
        )
    if tokens.size - message.prompt_tokens >= message.max_tokens:
        raise RefusedError(
            pb.MALFORMED,
            f"open.max_tokens is {message.max_tokens}, and {tokens.size - message.prompt_tokens} tokens are "
            "committed already",
            key,
        )
    wish = message.sampling
    try:
        sampling = Sampling(wish.temperature, wish.top_k, wish.top_p, wish.seed)
    except ValueError as error:
        raise RefusedError(pb.INVALID_SAMPLING, f"open.sampling: {error}", key) from error
    account = tenants.get(message.tenant) if message.tenant else client.account
    if account is None:
        raise RefusedError(
            pb.UNKNOWN_TENANT, f"open.tenant is {message.tenant!r}, which this verifier was not told of", key
        )
    return Sequence(
        client=client,
        account=account,
        key=key,
        tokens=compact(tokens.tolist()),
        prompt_tokens=message.prompt_tokens,
        max_tokens=message.max_tokens,
        sampling=sampling,
        stop_tokens=frozenset(stops.tolist()),
        arrived=time.monotonic(),
    )


class Arrival(NamedTuple):
    """A draft from the network, checked but for what the sequence's state decides.

    Attributes:
        key: of its sequence.
        position: index of its first token.
        draft: its tokens, all known to the model, and their q.
        held: seconds that its drafter had the grant.
    """

    key: int
    position: int
    draft: DraftBlock
    held: float


def check_drafts(
    messages: Many[pb.Draft], model_ids: int, max_draft_tokens: int
) -> tuple[list[Arrival], list[RefusedError]]:
    """A frame's drafts: those that may be, and why others may not.

    Where no draft brings distributions all are looked at together.
    """
    arrivals = _check_plain(messages, model_ids, max_draft_tokens)
    if arrivals is not None:
        return arrivals, []
    arrivals, refusals = [], []
    for message in messages:
        try:
            draft = check_draft(message, model_ids, max_draft_tokens)
        except RefusedError as error:
            refusals.append(error)
        else:
            arrivals.append(Arrival(message.sequence, message.position, draft, message.held_us / 1e6))
    return arrivals, refusals


def _check_plain(messages: Many[pb.Draft], model_ids: int, max_draft_tokens: int) -> list[Arrival] | None:
    """Drafts without distributions, together; None where one of them must be looked at on its own."""
    packed, ends, end = [], [], 0
    most = max_draft_tokens * TOKEN_BYTES
    for message in messages:
        tokens = message.tokens
        size = len(tokens)
        if (
            size > most
            or size % TOKEN_BYTES
            or not message.sequence
            or message.support_sizes
            or message.support_ids
            or message.support_weights
        ):
            return None
        end += size // TOKEN_BYTES
        packed.append(tokens)
        ends.append(end)
    ids = unpack_tokens(b"".join(packed))
    if end and int(ids.max()) >= model_ids:
        return None
    return [
        Arrival(message.sequence, message.position, block, message.held_us / 1e6)
        for message, block in zip(messages, DraftBlock.point_masses(ids).split(ends), strict=True)
    ]


def check_draft(message: pb.Draft, model_ids: int, max_draft_tokens: int) -> DraftBlock:
    """A draft from the network, checked but for what the sequence's state decides.

    Raises:
        RefusedError: its bytes or ids cannot be.
    """
    key = message.sequence
    if key == 0:
        raise RefusedError(pb.MALFORMED, "draft.sequence must not be 0")
    if len(message.tokens) > max_draft_tokens * TOKEN_BYTES:
        raise RefusedError(
            pb.OVER_GRANT,
            f"{len(message.tokens) // TOKEN_BYTES} drafted tokens exceed every grant: at most "
            f"{max_draft_tokens} are given",
            key,
        )
    try:
        draft = unpack_draft(
            message.tokens, message.support_sizes, message.support_ids, message.support_weights
        )
    except WireError as error:
        code = pb.INVALID_DISTRIBUTION if "support" in str(error) else pb.MALFORMED
        raise RefusedError(code, f"draft: {error}", key) from error
    for name, ids in (("tokens", draft.tokens), ("support_ids", draft.support_ids)):
        if ids.size and int(np.max(ids)) >= model_ids:
            raise RefusedError(
                pb.INVALID_TOKEN,
                f"draft.{name} holds {int(np.max(ids))}, outside the vocabulary of {model_ids}",
                key,
            )
    return draft
