"""How many tokens of which prompts go into a round.

A prompt in the pass lengthens the round of everybody whose draft is in it. How
much of it may be is a share of the round without, by the cost of a pass as
measured. Pure: decisions from numbers.
"""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Sequence as Many
from dataclasses import dataclass

from goodspeed_runtime.decoding.prefixes import SHORTEST
from goodspeed_runtime.scheduling.timing import VerificationCost
from goodspeed_runtime.verifier.sequence import Sequence

LEAST_TOKENS = 8
"""So many go into every round, or a prompt would never end where a pass costs as much as its tokens."""


@dataclass(frozen=True, slots=True)
class PrefillLimit:
    """What prompts may cost a round.

    Attributes:
        most: tokens, all prompts together.
        share: of the round's time without them, by which they may lengthen it.
        cost: T_V as measured.
    """

    most: int
    share: float
    cost: VerificationCost

    def room(self, decoding: int) -> int:
        """Prompt tokens that fit beside so many tokens of drafts and single ones; all of them beside none."""
        if not decoding:
            return self.most
        longest = (1 + self.share) * self.cost.at(decoding)
        fits, too_many = 0, self.most + 1
        while too_many - fits > 1:
            tokens = (fits + too_many) // 2
            if self.cost.at(decoding + tokens) <= longest:
                fits = tokens
            else:
                too_many = tokens
        return min(self.most, max(fits, LEAST_TOKENS))


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is left of a prompt.

    Attributes:
        account: whose.
        weight: of the account.
        tokens: to be fed still.
    """

    account: Hashable
    weight: float
    tokens: int


def divide(room: int, prompts: Many[Prompt]) -> list[int]:
    """Tokens of each prompt for this round, in order.

    Accounts get shares of the room by their weights; what one needs less goes to the others. Within an
    account the first prompt gets what it needs, then the next: it is sooner over, and no later for the rest.
    """
    given = [0] * len(prompts)
    members: dict[Hashable, list[int]] = {}
    for index, prompt in enumerate(prompts):
        members.setdefault(prompt.account, []).append(index)
    wanted = {account: sum(prompts[i].tokens for i in own) for account, own in members.items()}
    weights = {account: prompts[own[0]].weight for account, own in members.items()}
    left = sum(weights.values())
    for account in sorted(members, key=lambda each: wanted[each] / weights[each]):
        share = min(room, wanted[account], -int(-room * weights[account] // left))
        left -= weights[account]
        room -= share
        for index in members[account]:
            given[index] = min(share, prompts[index].tokens)
            share -= given[index]
    return given


def foremost(prompts: Many[Sequence]) -> list[Sequence]:
    """Those of the prompts whose next tokens no other before them feeds too.

    Where a system prompt arrives many times at once, one computes it and the others copy it afterwards.

    Args:
        prompts: sequences whose prompts are under way, first ones first.
    """
    chosen: list[Sequence] = []
    for prompt in prompts:
        beginning = prompt.tokens[: prompt.filled + SHORTEST]
        shared = prompt.scope is not None and len(beginning) == prompt.filled + SHORTEST
        if not shared or not any(
            other.scope == prompt.scope
            and other.filled >= prompt.filled
            and other.tokens[: len(beginning)] == beginning
            for other in chosen
        ):
            chosen.append(prompt)
    return chosen
