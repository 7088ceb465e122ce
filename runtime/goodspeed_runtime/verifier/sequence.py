"""What the verifier knows of a drafter and of each of its sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import DraftBlock

Deliver = Callable[[pb.VerifierFrame], None]


@dataclass(slots=True, eq=False)
class Client:
    """A drafter with its stream open.

    Attributes:
        name: unique among the streams of this verifier.
        pool: it belongs to.
        weight: in the utility.
        max_draft_tokens: its longest draft.
        deliver: hands it a frame; callable from any thread, never blocks.
        row: in the estimators.
        pending: its commands that the compute thread has not come to; the inbox's to count.
        leaving: it has been told to go, and what it still sends is meant for where it goes.
    """

    name: str
    pool: str
    weight: float
    max_draft_tokens: int
    deliver: Deliver
    row: int = -1
    pending: int = 0
    leaving: bool = False
    sequences: dict[int, Sequence] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Sequence:
    """One generation as the verifier sees it.

    Attributes:
        client: whose it is.
        key: its number on the client's stream.
        tokens: prompt and everything committed.
        prompt_tokens: how many of them are the prompt.
        max_tokens: most tokens to commit after the prompt.
        sampling: how the target's tokens are drawn.
        stop_tokens: ids that end it.
        arrived: monotonic seconds when it, or its draft, came in.
        granted: monotonic seconds when its grant was sent.
        slot: of the KV cache; -1 while it waits for one.
        filled: tokens of the prefill that are in the cache; the prefill is over at `len(tokens)`.
        opened: whether its first token has been sent.
        grant: draft tokens allowed and not yet verified.
        draft: what came for the next round.
    """

    client: Client
    key: int
    tokens: list[int]
    prompt_tokens: int
    max_tokens: int
    sampling: Sampling
    stop_tokens: frozenset[int]
    arrived: float
    granted: float = 0.0
    slot: int = -1
    filled: int = 0
    opened: bool = False
    grant: int = 0
    draft: DraftBlock | None = None

    def room(self, max_context: int) -> int:
        """Tokens that may still be committed."""
        committed = len(self.tokens) - self.prompt_tokens
        return min(self.max_tokens - committed, max_context - len(self.tokens))

    def longest_draft(self, max_context: int, limit: int) -> int:
        """The largest grant that makes sense: the bonus token needs a place too."""
        return max(0, min(limit, self.client.max_draft_tokens, self.room(max_context) - 1))
