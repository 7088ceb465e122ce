"""Finds the acceptances with which Fixed-S meets each paper cell's published utility (PAPER §V).

The paper prints no acceptances. With four clients they are constant: logits two to either side of
a middle. With eight no constant acceptance is enough for what is published (at C 16 Fixed-S stands
at 97% of its own ceiling), so there prompts come in two kinds, easy (0.995) and hard (0.2), of
about fifty rounds each, and clients differ in how many of theirs are hard. The middle, or the
share of hard prompts, is searched with the simulator itself, with the scenario's seed and length.
Prints the cases of `paper.yaml`.
"""

import numpy as np

from goodspeed_runtime.simulate.comparison import compare
from goodspeed_runtime.simulate.loading import preset
from goodspeed_runtime.simulate.scenario import Case, Clients, Kind, Prompts, Published, Range

EASY, HARD, SPREAD = 0.995, 0.2, 2.0
PUBLISHED = {
    "qwen-4-c24": (4, 24, Published(fixed=4.61, gradient=4.64)),
    "qwen-4-c28": (4, 28, Published(fixed=4.73, gradient=4.99)),
    "qwen-8-c16": (8, 16, Published(fixed=7.99, random=6.45, gradient=8.32)),
    "qwen-8-c20": (8, 20, Published(fixed=8.80, random=9.22, gradient=9.29)),
    "llama-8-c16": (8, 16, Published(fixed=8.49, random=8.33, gradient=8.62)),
    "llama-8-c20": (8, 20, Published(fixed=9.31, random=9.29, gradient=9.48)),
}
# Only a Fixed-S that rounds C/N down to 2 falls behind Random-S, as published; 8.79 is its ceiling.
ROUNDED_DOWN, REACHABLE = {"qwen-8-c20": 2}, {"qwen-8-c20": 8.74}


def clients(count: int, level: float) -> list[Clients]:
    """The clients of a cell; a higher `level` means fewer accepted tokens."""
    if count == 4:
        low, high = 1 / (1 + np.exp(level + SPREAD)), 1 / (1 + np.exp(level - SPREAD))
        ends = Range.model_validate({"from": round(low, 4), "to": round(high, 4), "spacing": "logit"})
        return [Clients(count=4, acceptance=ends)]
    shares = [round(float(level * part), 4) for part in np.linspace(0.25, 1.75, count)]
    return [
        Clients(
            prompts=Prompts(
                mean_seconds=PROMPT_SECONDS,
                kinds=[Kind(acceptance=EASY, share=round(1 - share, 4)), Kind(acceptance=HARD, share=share)],
            )
        )
        for share in shares
    ]


PROMPT_SECONDS = 50.0


def main() -> None:
    """Bisects every cell and prints it."""
    scenario = preset("paper")
    fixed = [player for player in scenario.allocators if player.allocator == "fixed"]
    scenario = scenario.model_copy(update={"allocators": fixed, "baseline": fixed[0].name})
    for name, (count, budget, published) in PUBLISHED.items():
        goal = REACHABLE.get(name, published.fixed)
        low, high = (-4.0, 4.0) if count == 4 else (0.0008, 0.5)
        for _ in range(14):
            middle = (low + high) / 2
            case = Case(
                name=name,
                budget_tokens=budget,
                fixed_length=ROUNDED_DOWN.get(name),
                published=published,
                clients=clients(count, middle),
            )
            found = compare(scenario.model_copy(update={"cases": [case]})).rows[0].utility
            low, high = (middle, high) if found > goal else (low, middle)
        print(f"# {name}: Fixed-S {found:.3f}, published {published.fixed}")
        print(_yaml(case), flush=True)


def _yaml(case: Case) -> str:
    plain = case.published.model_dump(exclude_none=True) if case.published else {}
    lines = [
        f"- name: {case.name}",
        f"  budgetTokens: {case.budget_tokens}",
        f"  published: {{{', '.join(f'{key}: {value}' for key, value in plain.items())}}}",
        "  clients:",
    ]
    if case.fixed_length is not None:
        lines.insert(2, f"  fixedLength: {case.fixed_length}")
    for group in case.clients:
        if isinstance(group.acceptance, Range):
            ends = group.acceptance
            lines.append(
                f"  - {{count: {group.count}, acceptance: "
                f"{{from: {ends.from_}, to: {ends.to}, spacing: {ends.spacing}}}}}"
            )
        elif group.prompts:
            kinds = ", ".join(
                f"{{acceptance: {kind.acceptance}, share: {kind.share}}}" for kind in group.prompts.kinds
            )
            lines.append(
                f"  - {{prompts: {{meanSeconds: {group.prompts.mean_seconds:g}, kinds: [{kinds}]}}}}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
