"""What a demo came to: replies, counters and the greedy check, as one summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from goodspeed_operator.cli.traffic import Reply
from goodspeed_operator.local.figures import Counts, jain_index


@dataclass(frozen=True, slots=True)
class Greedy:
    """Answers at temperature 0, held against the target alone.

    Attributes:
        checked: answers compared.
        equal: those whose every token is the target's own choice.
        near_ties: those that differ, first at a near-tie; the rest are wrong.
    """

    checked: int = 0
    equal: int = 0
    near_ties: int = 0

    @classmethod
    def of(cls, comparisons: Sequence[Mapping[str, Any]]) -> Greedy:
        """Counts comparisons by `goodspeed_runtime.decoding.reference`."""
        equal = sum(each["equal"] for each in comparisons)
        ties = sum(not each["equal"] and each["wrong"] is None for each in comparisons)
        return cls(len(comparisons), equal, ties)


def troubles(
    replies: Sequence[Reply], counts: Mapping[str, Counts], greedy: Greedy, to_check: int
) -> list[str]:
    """Everything that must not be, in words; empty when the demo is a success."""
    found = [
        f"{reply.question.drafter}, {reply.question.prompt.identity}: {reply.error or 'an empty answer'}"
        for reply in replies
        if reply.error or not reply.token_ids
    ]
    for drafter in sorted({reply.question.drafter for reply in replies}):
        received = sum(len(reply.token_ids) for reply in replies if reply.question.drafter == drafter)
        counted = counts.get(drafter, Counts()).emitted_tokens
        if received != counted:
            found.append(f"{drafter}: {received} tokens received, the verifier counted {counted:.0f}")
    if greedy.checked != to_check:
        found.append(f"{greedy.checked} of {to_check} greedy answers were checked")
    wrong = greedy.checked - greedy.equal - greedy.near_ties
    if wrong:
        found.append(f"{wrong} greedy answers differ from the target's own by more than a near-tie")
    return found


def summarise(
    replies: Sequence[Reply],
    models: Mapping[str, str],
    counts: Mapping[str, Counts],
    rounds: float,
    greedy: Greedy,
    ok: bool,
) -> dict[str, Any]:
    """The summary as JSON would have it.

    Args:
        replies: all of them.
        models: URI by drafter; its order is the summary's.
        counts: growth of the verifier's counters over the demo, by drafter.
        rounds: of the verifier over the demo.
        greedy: the check at temperature 0.
        ok: whether nothing is wrong.
    """
    rows = [_row(name, model, replies, counts.get(name, Counts())) for name, model in models.items()]
    emitted = sum(each.emitted_tokens for each in counts.values())
    return {
        "ok": ok,
        "drafters": rows,
        "rounds": int(rounds),
        "tokens_per_round": round(emitted / rounds, 3) if rounds else 0.0,
        "jain_index": round(jain_index(row["goodput_per_round"] for row in rows), 4),
        "greedy_equal": greedy.equal,
        "greedy_near_ties": greedy.near_ties,
        "greedy_checked": greedy.checked,
    }


def _row(name: str, model: str, replies: Sequence[Reply], counts: Counts) -> dict[str, Any]:
    own = [reply for reply in replies if reply.question.drafter == name]
    seconds = max((reply.ended for reply in own), default=0.0) - min((r.began for r in own), default=0.0)
    return {
        "name": name,
        "model": model,
        "requests": len(own),
        "tokens": sum(len(reply.token_ids) for reply in own),
        "acceptance": round(counts.acceptance, 4),
        "goodput_per_round": round(counts.goodput_per_round, 3),
        "goodput_per_second": round(counts.emitted_tokens / seconds, 2) if seconds > 0 else 0.0,
        "mean_grant": round(counts.mean_grant, 3),
    }
