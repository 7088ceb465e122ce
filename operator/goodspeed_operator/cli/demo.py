"""`goodspeed demo`: a fleet, users of eight kinds, figures, and the proof that answers are the target's."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.cli.credentials import credentials
from goodspeed_operator.cli.session import console, default_state, fail, read_with_secrets, run, serving
from goodspeed_operator.cli.summary import Greedy, summarise, troubles
from goodspeed_operator.cli.table import read_verifiers
from goodspeed_operator.cli.traffic import Prompt, Question, Reply, ask_all, plan, read_prompts
from goodspeed_operator.cli.up import Cache, StateDir, Timeout
from goodspeed_operator.cluster.scrape import Reading
from goodspeed_operator.local import figures
from goodspeed_operator.local.figures import Counts
from goodspeed_operator.local.fleet import Fleet, default_cache
from goodspeed_operator.local.tether import die_with_parent

_SETTLE_SECONDS = 5.0
_SHOWN_CHARACTERS = 300


def demo(
    file: Annotated[
        Path, typer.Option("--filename", "-f", metavar="FILE", help="YAML of a GoodSpeedCluster.")
    ] = Path("examples/quickstart.yaml"),
    prompts: Annotated[Path, typer.Option(help="JSON lines with id, kind, prompt and maybe system.")] = Path(
        "examples/prompts.jsonl"
    ),
    per_kind: Annotated[int, typer.Option(min=1, help="Prompts of each kind.")] = 6,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    in_flight: Annotated[int, typer.Option(min=1, help="Questions under way per drafter.")] = 2,
    seed: Annotated[int, typer.Option(help="Which prompts are drawn, and the sampling of each.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the summary goes.")] = Path("build/demo/summary.json"),
    timeout: Timeout = 300,
    state_dir: StateDir = None,
    cache: Cache = None,
) -> None:
    """Bring a fleet up, ask it prompts of every kind at once, and show what came of it.

    Answers at temperature 0 are then compared, token by token, with the target's own plain greedy
    decoding. Exits with 0 only when every answer arrived, every token was accounted for, and no
    answer differs except at a near-tie.
    """
    cluster, secrets = read_with_secrets(file)
    headers = credentials(cluster, secrets)
    try:
        questions = read_prompts(prompts)
    except (OSError, ValueError) as error:
        raise fail(str(error), 2) from error
    out.unlink(missing_ok=True)

    async def work() -> int:
        began = time.monotonic()
        state = state_dir or default_state(cluster.name)
        async with serving(cluster, secrets, state=state, cache=cache, timeout=timeout) as fleet:
            asked = plan(questions, [member.name for member in fleet.of_role("drafter")], per_kind, seed)
            replies, counts, rounds = await _converse(fleet, headers, asked, max_tokens, in_flight, timeout)
            models = {member.name: member.model for member in fleet.of_role("drafter")}
            _show_answers(replies)
        greedy_replies = [r for r in replies if r.question.temperature == 0 and r.token_ids and not r.error]
        greedy = Greedy.of(await _check(cluster, greedy_replies, cache))
        wrong = troubles(replies, counts, greedy, len(greedy_replies))
        summary = summarise(replies, models, counts, rounds, greedy, ok=not wrong)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        _show(summary, counts)
        for trouble in wrong:
            console.print(f"wrong: {trouble}", style="red", markup=False, soft_wrap=True)
        console.print(f"{out} written after {time.monotonic() - began:.0f} s", style="bold")
        return int(bool(wrong))

    raise typer.Exit(run(work, interrupted=130))


async def _converse(
    fleet: Fleet,
    headers: Mapping[str, str],
    asked: Sequence[Question],
    max_tokens: int,
    in_flight: int,
    timeout: float,  # noqa: ASYNC109
) -> tuple[list[Reply], dict[str, Counts], float]:
    """Asks everything; returns the replies, the growth of each drafter's counters, and the rounds."""
    urls = {member.name: member.url for member in fleet.of_role("drafter")}
    async with httpx.AsyncClient(trust_env=False) as http:
        before = await read_verifiers(fleet, http)
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console) as progress:
            bars = {
                name: progress.add_task(name, total=sum(question.drafter == name for question in asked))
                for name in urls
            }
            done = 0

            def answered(reply: Reply) -> None:
                nonlocal done
                done += 1
                progress.advance(bars[reply.question.drafter])
                if not console.is_terminal and done % 8 == 0:
                    console.print(f"{done} of {len(asked)} answers")

            replies = await ask_all(
                asked,
                urls,
                headers=headers,
                max_tokens=max_tokens,
                in_flight=in_flight,
                timeout=timeout,
                answered=answered,
            )
        after = await _settled(fleet, http)
    earlier = figures.drafters(before)
    counts = {
        name: now.counts.since(earlier[name].counts if name in earlier else Counts())
        for name, now in figures.drafters(after).items()
    }
    return replies, counts, figures.rounds(after) - figures.rounds(before)


async def _settled(fleet: Fleet, http: httpx.AsyncClient) -> list[Reading]:
    """The verifiers' metrics once no sequence is open any more."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        readings = await read_verifiers(fleet, http)
        idle = not any(each.sequences or each.queue for each in figures.drafters(readings).values())
        if idle or time.monotonic() > deadline:
            return readings
        await asyncio.sleep(0.1)


async def _check(
    cluster: GoodSpeedCluster, replies: Sequence[Reply], cache: Path | None
) -> list[Mapping[str, Any]]:
    """Holds greedy answers against the target alone, in a process of its own, since here is no torch."""
    console.print(f"comparing {len(replies)} answers at temperature 0 with the target's own greedy decoding")
    spec = cluster.spec
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "goodspeed_runtime.decoding.reference",
        "--model", spec.target.model, "--dtype", spec.target.dtype, "--weights", spec.target.weights,
        "--device", spec.verifier.device,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # Threads that spin between passes come to a crawl as soon as anything else wants the cores.
        env={"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"GOODSPEED_CACHE": str(cache or default_cache())},
        preexec_fn=die_with_parent(),
    )  # fmt: skip
    lines = [
        json.dumps({"id": index, "prompt_token_ids": reply.prompt_token_ids, "token_ids": reply.token_ids})
        for index, reply in enumerate(replies)
    ]
    try:
        output, _ = await process.communicate("\n".join(lines).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return [json.loads(line) for line in output.splitlines()]


def _show_answers(replies: Sequence[Reply]) -> None:
    """One answer of every kind."""
    shown: dict[str, Reply] = {}
    for reply in replies:
        shown.setdefault(reply.question.prompt.kind, reply)
    for kind, reply in sorted(shown.items()):
        prompt, answer = _short(reply.question.prompt), " ".join(reply.text.split())
        console.print(
            f"\n[bold]{kind}[/bold] [dim]{reply.question.drafter}, T={reply.question.temperature:g}[/dim]"
        )
        console.print(f"  > {prompt}", style="cyan", markup=False)
        console.print(f"  {answer[:_SHOWN_CHARACTERS]}", markup=False)
    console.print()


def _short(prompt: Prompt) -> str:
    text = " ".join(prompt.text.split())
    return text if len(text) <= _SHOWN_CHARACTERS // 2 else text[: _SHOWN_CHARACTERS // 2] + " …"


def _show(summary: Mapping[str, Any], counts: Mapping[str, Counts]) -> None:
    table = Table("drafter", "model", pad_edge=False)
    for heading in ("requests", "tokens", "acceptance", "grant", "tok/draft", "tok/round", "tok/s"):
        table.add_column(heading, justify="right")
    for row in summary["drafters"]:
        table.add_row(
            row["name"],
            row["model"],
            str(row["requests"]),
            str(row["tokens"]),
            f"{row['acceptance']:.3f}",
            f"{row['mean_grant']:.2f}",
            f"{counts.get(row['name'], Counts()).tokens_per_draft:.2f}",
            f"{row['goodput_per_round']:.2f}",
            f"{row['goodput_per_second']:.1f}",
        )
    _wide(console).print(table)
    console.print(
        f"{summary['rounds']} rounds, {summary['tokens_per_round']} tokens a round, "
        f"Jain index {summary['jain_index']}"
    )
    console.print(
        f"greedy: {summary['greedy_checked']} checked, {summary['greedy_equal']} equal, "
        f"{summary['greedy_near_ties']} differ from a near-tie on"
    )


def _wide(shown: Console) -> Console:
    """Off a terminal a table need not be squeezed into 80 columns."""
    return shown if shown.is_terminal else Console(width=140, highlight=False)
