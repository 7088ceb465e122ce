"""What the verifier knows of a drafter, of whose requests it brings, and of each of its sequences."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import DraftBlock

Deliver = Callable[[pb.VerifierFrame], None]

NOTHING = DraftBlock.point_masses(())


def compact(tokens: Iterable[int]) -> array[int]:
    """Token ids, four bytes each: an idle sequence is hardly more than these."""
    return array("i", tokens)


@dataclass(slots=True, eq=False)
class Account:
    """Whose goodput the scheduler is fair about: a tenant, or a drafter whose requests name none.

    Attributes:
        name: the tenant's or the drafter's.
        weight: in the utility.
        row: in the estimators of goodput.
        held: sequences of it that have a KV slot.
    """

    name: str
    weight: float
    row: int = -1
    held: int = 0


@dataclass(slots=True, eq=False)
class Client:
    """A drafter with its stream open.

    Attributes:
        name: unique among the streams of this verifier.
        pool: it belongs to.
        account: of its requests without a tenant.
        max_draft_tokens: its longest draft.
        deliver: hands it a frame; callable from any thread, never blocks.
        row: in the estimators of acceptance and time.
        pending: its commands that the compute thread has not come to; the inbox's to count.
        leaving: it has been told to go, and what it still sends is meant for where it goes.
    """

    name: str
    pool: str
    account: Account
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
        account: who is served by it.
        key: its number on the client's stream.
        tokens: prompt and everything committed.
        prompt_tokens: how many of them are the prompt.
        max_tokens: most tokens to commit after the prompt.
        sampling: how the target's tokens are drawn.
        stop_tokens: ids that end it.
        arrived: monotonic seconds when it, or its draft, came in.
        granted: monotonic seconds when its grant was sent.
        granted_at: length of `tokens` then; no draft begins earlier.
        due: monotonic seconds when its draft should come.
        expected: tokens that the draft should commit, bonus included.
        acceptance: that was reckoned with.
        slot: of the KV cache; -1 while it waits for one.
        since: monotonic seconds when it got its slot, or began to wait for one.
        ready: monotonic seconds when its prefill was over.
        scope: beginnings are shared with sequences of the same; None shares none.
        filled: tokens of the prefill that are in the cache.
        prefill: how many there are to be: all it has, but for the last one of a sequence that was preempted.
        opened: whether its first token has been sent.
        grant: draft tokens allowed and not yet verified; 0 while it is decoded without drafts.
        draft: what came for the next round, as far as it follows `tokens`.
        sent: tokens that the draft had when it came.
        set_aside: its draft, here or on its way, is not verified: it was preempted meanwhile.
        held_seconds: from the grant's coming to the draft's going at the drafter.
    """

    client: Client
    account: Account
    key: int
    tokens: array[int]
    prompt_tokens: int
    max_tokens: int
    sampling: Sampling
    stop_tokens: frozenset[int]
    arrived: float
    granted: float = 0.0
    granted_at: int = 0
    due: float = 0.0
    expected: float = 1.0
    acceptance: float = 0.0
    slot: int = -1
    since: float = 0.0
    ready: float = 0.0
    scope: str | None = None
    filled: int = 0
    prefill: int = 0
    opened: bool = False
    grant: int = 0
    draft: DraftBlock | None = None
    sent: int = 0
    set_aside: bool = False
    held_seconds: float = 0.0

    @property
    def filling(self) -> bool:
        """Whether tokens of it must be fed before its drafts can be verified."""
        return self.filled < self.prefill

    @property
    def progressed(self) -> bool:
        """Whether it has got more than its first token since it has its slot."""
        return len(self.tokens) > self.prefill + 1

    @property
    def in_flight(self) -> int:
        """Draft tokens granted that will have to be verified."""
        return 0 if self.set_aside else self.grant

    @property
    def awaited(self) -> bool:
        """Whether a draft of it is out."""
        return self.grant > 0 and self.draft is None

    def room(self, max_context: int) -> int:
        """Tokens that may still be committed."""
        committed = len(self.tokens) - self.prompt_tokens
        return min(self.max_tokens - committed, max_context - len(self.tokens))

    def allow(self, now: float, grant: int, due: float, expected: float, acceptance: float) -> None:
        """A grant is sent; see the attributes."""
        self.grant, self.granted, self.granted_at = grant, now, len(self.tokens)
        self.due, self.expected, self.acceptance = due, expected, acceptance

    def take(self, draft: DraftBlock, position: int) -> None:
        """Keeps what of a draft from ``position`` on still follows the committed tokens.

        That what is kept is q's own choice does not depend on how the tokens before it came about, so a
        draft overtaken by the verifier stays lossless.
        """
        overtaken = len(self.tokens) - position
        self.sent = len(draft)
        if not overtaken and not self.set_aside:
            self.draft = draft
        elif self.set_aside or self.tokens[position:] != compact(draft.tokens[:overtaken].tolist()):
            self.draft = NOTHING
        else:
            self.draft = draft.part(overtaken, self.sent)

    def sit_down(self, slot: int, filled: int, now: float) -> None:
        """It has got a slot, in which so many of its tokens are already."""
        self.slot, self.since = slot, now
        # What follows the last token of an opened sequence is verified, or sampled, with that token's pass.
        self.prefill = len(self.tokens) - self.opened
        self.fed(filled, now)

    def fed(self, filled: int, now: float) -> None:
        """So many tokens of its prefill are in the cache."""
        self.filled = filled
        if not self.filling:
            self.ready = now

    def stand_up(self) -> None:
        """It has lost its slot and keeps its tokens; a draft may come from any time before."""
        self.slot = -1
        self.filled = self.prefill = 0
        self.expected = 1.0
        self.set_aside = self.grant > 0
        if self.draft is not None:
            self.draft = NOTHING
