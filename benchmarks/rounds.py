"""Rounds over networks: a barrier beside the continuous loop, each with and without drafting ahead.

A verifier and eight drafters run in this process and talk real gRPC through links that delay, space and lose
what passes (`emulation/network.py`). The target is *synthetic* (`emulation/synthetic.py`): a pass takes 30 ms
and 0.2 ms a token, three guesses in four stand with 0.95 and one with 0.35. Drafters take 2 to 20 ms a token,
two users each ask without end. Every answer is compared with the target's own, token by token.

    networks    the four arms over links of several kinds; gain is goodput per second over the barrier's alone
    equal       eight drafters of 5 ms a token each: what is left of the gain where nobody is slower
    ceiling     drafts that take no time: more than drafting ahead can gain, whatever branches it follows
    straggler   one drafter ten times slower than the others: what it costs them, what its own users get
    wire        bytes on the wire, HTTP/2 and gRPC included, by what a draft must bring along
    options     settings of gRPC's transport, each against what is set now
    overhead    64 drafters x 8 sequences over loopback, a target of no cost: CPU per committed token, memory
    plain       whether drafting ever costs users goodput: the objective per second beside the verifier alone,
                by acceptance and sequences, where passes are dear, cheap, and on the drafters' own device
    smollm2     SmolLM2 on this CPU with the built-in drafters, in place of the synthetic target
    namespaces  packets through TUN devices into network namespaces, so that TCP meets delay and loss itself

    python benchmarks/rounds.py [--parts networks,wire] [--seconds 8] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from emulation.arms import ARMS, CONTINUOUS, NETWORKS, PLAIN, SPREAD, synthetic
from emulation.echo import KINDS, frame_seconds
from emulation.fleet import Result
from emulation.load import idle_bytes, measure
from emulation.network import Namespace, Way
from emulation.smollm2 import smollm2
from emulation.synthetic import Cost
from emulation.transport import VARIANTS, transport

SLOW = 10
"""Times slower that the straggler is than the others."""
EQUAL_SECONDS = 0.005
DRAFTERS = 8
MACHINES = (
    ("dear passes", Cost(base=0.03, token=0.0002), 0.005, False),
    ("cheap passes", Cost(base=0.001, token=0.00001), 0.002, False),
    ("one device", Cost(base=0.003, token=0.00001), 0.001, True),
)
"""A pass, seconds a drafted token, and whether both take turns on one device."""
ACCEPTANCES = (0.1, 0.5, 0.8, 0.95)
SEQUENCES = (1, 4, 16)


def _figures(result: Result) -> dict[str, float]:
    sent = max(result.each("drafted"), 1)
    tokens = max(result.each("tokens"), 1)
    return {
        "goodput_per_second": result.goodput(),
        "jain": result.fairness,
        "least_drafter_per_second": min(result.goodput(name) for name in result.seen),
        "p50_ms": 1e3 * result.gap(0.5),
        "p95_ms": 1e3 * result.gap(0.95),
        "bytes_up_per_draft_token": result.each("up") / sent,
        "bytes_down_per_draft_token": result.each("down") / sent,
        "bytes_up_per_committed_token": result.each("up") / tokens,
        "bytes_down_per_committed_token": result.each("down") / tokens,
        "ahead_kept": result.each("kept"),
        "ahead_dropped": result.each("dropped"),
    }


class Report:
    """Rows of figures, printed as tables and written as JSON."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.parts: dict[str, list[dict[str, Any]]] = {}

    def table(self, part: str, rows: list[dict[str, Any]], note: str = "") -> None:
        """Prints a part's rows and keeps them."""
        self.parts[part] = rows
        table = Table(title=part, caption=note or None)
        for name in rows[0]:
            table.add_column(name.replace("_", " "), justify="right")
        for row in rows:
            table.add_row(*(_shown(value) for value in row.values()))
        self._console.print(table)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 2 else f"{value:.1f}"
    return str(value)


async def networks(seconds: float, step: Callable[[], None], report: Report) -> None:
    """The four arms on every network."""
    rows = []
    for name, ways in NETWORKS.items():
        base = 0.0
        for arm in ARMS:
            result = await synthetic(arm, ways, seconds=seconds)
            base = base or result.goodput()
            rows.append(
                {"network": name, "arm": arm.name, "gain": result.goodput() / base} | _figures(result)
            )
            step()
    report.table("networks", rows, "drafters of 2 to 20 ms a token; every answer equals the target's own")


async def equal(seconds: float, step: Callable[[], None], report: Report) -> None:
    """The barrier and the continuous loop where all drafters are alike."""
    rows = []
    for network in ("20 ms", "80 ms"):
        base = 0.0
        for arm in (ARMS[0], CONTINUOUS):
            speeds = [EQUAL_SECONDS] * DRAFTERS
            result = await synthetic(arm, NETWORKS[network], speeds=speeds, seconds=seconds)
            base = base or result.goodput()
            rows.append(
                {"network": network, "arm": arm.name, "gain": result.goodput() / base} | _figures(result)
            )
            step()
    report.table("equal", rows)


async def ceiling(seconds: float, step: Callable[[], None], report: Report) -> None:
    """What is left to be gained by having every draft ready when its grant comes."""
    rows = []
    for network in ("20 ms", "80 ms"):
        base = 0.0
        for name, speeds in (("2 to 20 ms a token", SPREAD), ("no time at all", [0.0] * DRAFTERS)):
            result = await synthetic(CONTINUOUS, NETWORKS[network], speeds=speeds, seconds=seconds)
            base = base or result.goodput()
            rows.append(
                {"network": network, "drafts": name, "gain": result.goodput() / base} | _figures(result)
            )
            step()
    report.table("ceiling", rows, CONTINUOUS.name)


async def straggler(seconds: float, step: Callable[[], None], report: Report) -> None:
    """One slow drafter among equals, and what its users would get without its drafts."""
    way, equal = Way(trip=0.005), [EQUAL_SECONDS] * DRAFTERS
    slowed = [SLOW * EQUAL_SECONDS, *equal[1:]]
    rows = []
    for arm in (ARMS[0], CONTINUOUS):
        before = await synthetic(arm, [way] * DRAFTERS, speeds=equal, seconds=seconds)
        after = await synthetic(arm, [way] * DRAFTERS, speeds=slowed, seconds=seconds)
        plain = await synthetic(arm, [way] * DRAFTERS, speeds=slowed, seconds=seconds, mute=("drafter-0",))
        own, *others = after.seen
        rows.append(
            {
                "arm": arm.name,
                "others_before": before.goodput(*others),
                "others_after": after.goodput(*others),
                "others_change": after.goodput(*others) / before.goodput(*others) - 1,
                "others_p95_before_ms": 1e3 * before.gap(0.95, *others),
                "others_p95_after_ms": 1e3 * after.gap(0.95, *others),
                "slow_before": before.goodput(own),
                "slow_after": after.goodput(own),
                "slow_plain": plain.goodput(own),
                "slow_p95_ms": 1e3 * after.gap(0.95, own),
                "slow_plain_p95_ms": 1e3 * plain.gap(0.95, own),
            }
        )
        step()
    alone = await synthetic(PLAIN, [way] * DRAFTERS, speeds=equal, seconds=seconds)
    step()
    note = (
        "tokens per second; slow plain: its users where the verifier decodes for them beside the same "
        f"others; where nobody drafts at all each drafter's users get {alone.goodput() / DRAFTERS:.1f}"
    )
    report.table("straggler", rows, note)


async def wire(seconds: float, step: Callable[[], None], report: Report) -> None:
    """What a drafted token costs on the wire."""
    rows = []
    for name, more in (
        ("greedy", {}),
        ("coupled", {"temperature": 1.0, "verification": "coupled"}),
        ("rejection, top 32", {"temperature": 1.0, "support": 32}),
    ):
        for arm in (ARMS[0], CONTINUOUS):
            result = await synthetic(arm, NETWORKS["20 ms"], seconds=seconds, **more)
            figures = {k: v for k, v in _figures(result).items() if "bytes" in k or k == "p95_ms"}
            per_draft = result.each("drafted") / max(result.each("drafts"), 1)
            rows.append({"drafts": name, "arm": arm.name, "tokens_per_draft": per_draft} | figures)
            step()
    report.table("wire", rows, "TCP payload at the drafter's socket; 20 ms")


async def options(seconds: float, step: Callable[[], None], report: Report) -> None:
    """Settings of the transport."""
    rows = []
    for name in VARIANTS:
        for network in ("20 ms", "80 ms, lossy"):
            with transport(name):
                result = await synthetic(CONTINUOUS, NETWORKS[network], seconds=seconds)
            rows.append({"setting": name, "network": network} | _figures(result))
            step()
    report.table("options", rows)


async def overhead(seconds: float, step: Callable[[], None], report: Report) -> None:
    """The verifier's own cost; its process is measured, and this one waits."""
    figures = await asyncio.to_thread(measure, 64, 8, 2048, seconds=seconds)
    step()
    frames = figures.pop("committed_per_frame")
    for kind in KINDS:
        spent = await asyncio.to_thread(frame_seconds, kind, 64, 8, seconds=seconds)
        figures[f"echo_{kind}_us"] = 1e6 * spent / frames
        step()
    idle = await asyncio.to_thread(idle_bytes, 2048)
    step()
    note = (
        "cpu: user and system time of the verifier's process, all threads, per committed token; own: less "
        "the synthetic passes and their verification, of which rounds, loop and grpc are those of the "
        "rounds' thread, of the event loop's and of gRPC's own; echo: of a server that answers each frame "
        "at once from prepared bytes, for as many tokens a frame; early: verdicts that are the verifier's "
        "own token ahead of a draft; ms between a user's tokens; 4 draft tokens a sequence, acceptance 0.8"
    )
    report.table("overhead", [figures | {"idle_sequence_bytes": idle}], note)


async def plain(seconds: float, step: Callable[[], None], report: Report) -> None:
    """The scheduler's choice beside no speculation at all."""
    rows = []
    for name, cost, token, shared in MACHINES:
        for acceptance in ACCEPTANCES:
            for sequences in SEQUENCES:
                drafters = min(sequences, 4)
                results = [
                    await synthetic(
                        arm,
                        [Way()] * drafters,
                        speeds=[token] * drafters,
                        seconds=seconds,
                        cost=cost,
                        users=sequences // drafters,
                        acceptance=acceptance,
                        objective="perSecond",
                        device=threading.Lock() if shared else None,
                    )
                    for arm in (PLAIN, CONTINUOUS)
                ]
                alone, chosen = results
                rows.append(
                    {
                        "machine": name,
                        "acceptance": acceptance,
                        "sequences": sequences,
                        "plain_per_second": alone.goodput(),
                        "chosen_per_second": chosen.goodput(),
                        "over_plain": chosen.goodput() / alone.goodput(),
                        "drafted_per_token": chosen.each("drafted") / max(chosen.each("tokens"), 1),
                        "plain_p95_ms": 1e3 * alone.gap(0.95),
                        "chosen_p95_ms": 1e3 * chosen.gap(0.95),
                    }
                )
                step()
    report.table("plain", rows, "chosen: objective perSecond, drafting ahead; plain: a budget of nothing")


async def on_smollm2(seconds: float, step: Callable[[], None], report: Report) -> None:
    """A real target and real drafters on these cores."""
    rows, answers = [], []
    for arm in ARMS:
        result = await smollm2(arm, Way(trip=0.02), seconds=2 * seconds)
        answers.append(result.answers)
        rows.append({"arm": arm.name} | _figures(result))
        step()
    _assert_same(answers)
    report.table("smollm2", rows, "20 ms; greedy; answers of all arms are the same")


def _assert_same(runs: list[dict[tuple[str, int], list[int]]]) -> None:
    for run in runs[1:]:
        for key in run.keys() & runs[0].keys():
            size = min(len(run[key]), len(runs[0][key]))
            assert run[key][:size] == runs[0][key][:size], f"{key}: the answers differ"


async def namespaces(seconds: float, step: Callable[[], None], report: Report) -> None:
    """The kernel's TCP under delay and loss."""
    if missing := Namespace.missing():
        report.table("namespaces", [{"skipped": missing}])
        return
    rows = []
    for name in ("20 ms", "80 ms", "80 ms, lossy"):
        base = 0.0
        for arm in (ARMS[0], CONTINUOUS):
            result = await synthetic(arm, NETWORKS[name], seconds=seconds, namespaces=True)
            base = base or result.goodput()
            rows.append(
                {"network": name, "arm": arm.name, "gain": result.goodput() / base} | _figures(result)
            )
            step()
    report.table("namespaces", rows, "one namespace a drafter, packets through TUN devices")


PARTS = {
    "networks": (networks, len(NETWORKS) * len(ARMS)),
    "equal": (equal, 4),
    "ceiling": (ceiling, 4),
    "straggler": (straggler, 3),
    "wire": (wire, 6),
    "options": (options, 2 * len(VARIANTS)),
    "overhead": (overhead, 4),
    "plain": (plain, len(MACHINES) * len(ACCEPTANCES) * len(SEQUENCES)),
    "smollm2": (on_smollm2, len(ARMS)),
    "namespaces": (namespaces, 6),
}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="which, comma-separated (default: all)")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured per arm, after 3 s of warm-up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    chosen = arguments.parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    console = Console(width=220)
    report = Report(console)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for name in chosen:
            part, steps = PARTS[name]
            task = progress.add_task(name, total=steps)
            asyncio.run(part(arguments.seconds, lambda task=task: progress.advance(task), report))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report.parts, indent=1))


if __name__ == "__main__":
    main()
