"""The live table of a fleet, and the same in plain lines."""

from __future__ import annotations

import asyncio

import httpx
from rich.table import Table

from goodspeed_operator.cluster.scrape import Reading, scrape
from goodspeed_operator.local import figures
from goodspeed_operator.local.figures import DrafterFigures
from goodspeed_operator.local.fleet import Fleet, Member
from goodspeed_operator.local.pod_status import PodStatus


async def read_verifiers(fleet: Fleet, http: httpx.AsyncClient) -> list[Reading]:
    """The metrics of every verifier that answers."""
    urls = [f"{member.url}/metrics" for member in fleet.of_role("verifier")]
    return [reading for reading in await asyncio.gather(*(scrape(http, url) for url in urls)) if reading]


def table(fleet: Fleet, readings: list[Reading]) -> Table:
    """One row a drafter: who it is, how well it drafts, what it may draft and what it gets."""
    found = figures.drafters(readings)
    total = sum(each.goodput_per_second for each in found.values())
    shown = Table("drafter", "model", "state", title_justify="left", caption_justify="left", pad_edge=False)
    for heading in ("acceptance", "grant", "tok/round", "tok/s", "share", "active", "tokens"):
        shown.add_column(heading, justify="right")
    for member in fleet.of_role("drafter"):
        shown.add_row(*_cells(member, fleet.statuses[member.name], found.get(member.name), total))
    jain = figures.jain_index(each.goodput_per_round for each in found.values() if each.sequences)
    verifiers = ", ".join(
        f"{member.name} {_state(fleet.statuses[member.name])}" for member in fleet.of_role("verifier")
    )
    shown.caption = (
        f"{verifiers} · {figures.rounds(readings):.0f} rounds · {total:.1f} tok/s · Jain index {jain:.3f}"
    )
    return shown


def line(fleet: Fleet, readings: list[Reading]) -> str:
    """The same on one line, for logs."""
    found = figures.drafters(readings)
    return "  ".join(
        f"{member.pool or member.name}: {found[member.name].goodput_per_second:.1f} tok/s "
        f"α {found[member.name].acceptance:.2f}"
        for member in fleet.of_role("drafter")
        if member.name in found
    )


def _cells(member: Member, status: PodStatus, now: DrafterFigures | None, total: float) -> list[str]:
    cells = [member.name, member.model, _state(status)]
    if now is None:
        return [*cells, *"–" * 7]
    return [
        *cells,
        f"{now.acceptance:.2f}",
        f"{now.grant:.0f}",
        f"{now.goodput_per_round:.2f}",
        f"{now.goodput_per_second:.1f}",
        f"{now.goodput_per_second / total:.0%}" if total else "–",
        f"{now.sequences:.0f}" + (f"+{now.queue:.0f}" if now.queue else ""),
        f"{now.counts.emitted_tokens:.0f}",
    ]


def _state(status: PodStatus) -> str:
    return status.phase + (f" ({status.restarts} restarts)" if status.restarts else "")
