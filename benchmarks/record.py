"""What `gpu_end_to_end` has found so far: on the screen and in a file, row by row."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from work import Figures

COMPARED = ("generate", "assisted-4l", "assisted-1l", "lookup", "continuous", "continuous-graphs", "plain")


@dataclass
class Row:
    """One arm with so many requests at once."""

    arm: str
    at_once: int
    figures: Figures

    def cells(self) -> list[str]:
        """As a table shows it."""
        values = [self.arm, self.at_once, *asdict(self.figures).values()]
        return [f"{v:.1f}" if isinstance(v, float) else str(v) for v in values]


class Record:
    """What has been found, on the screen and in a file after every row."""

    def __init__(self, facts: dict[str, Any], file: Path | None) -> None:
        self._facts, self._file = facts, file
        self.rows: list[Row] = []
        self.missing: dict[str, str] = {}
        self.equality: list[dict[str, Any]] = []
        self.console = Console(width=150)

    def add(self, row: Row) -> None:
        """A row more."""
        self.rows.append(row)
        names = list(Figures.__annotations__)
        words = zip(names, row.cells()[2:], strict=True)
        self.console.print(f"{row.arm}, {row.at_once} at once: {', '.join(f'{n} {w}' for n, w in words)}")
        self.write()

    def hold(self, compared: list[dict[str, Any]]) -> None:
        """Answers have been held against the target alone."""
        self.equality = compared
        equal = sum(one["equal"] for one in compared)
        ties, tokens = (sum(one[name] for one in compared) for name in ("near_ties", "tokens"))
        wrong = [one for one in compared if one["wrong"] is not None]
        self.console.print(
            f"equality: {equal} of {len(compared)} answers are the target's own token by token; "
            f"near-ties at {ties} of {tokens} tokens; wrong: {wrong or 'none'}",
            markup=False,
        )

    def lack(self, arm: str, why: str) -> None:
        """An arm, or the rest of one, is left out."""
        self.missing[arm] = why
        self.console.print(f"{arm}: {why}", style="yellow", markup=False)
        self.write()

    def ratios(self) -> list[dict[str, Any]]:
        """Goodspeed's rates over those of arms that were measured with as many at once."""
        rates = {(row.arm, row.at_once): row.figures.tokens_per_second for row in self.rows}
        return [
            {"arm": arm, "at_once": at_once}
            | {f"times {o}": rate / rates[o, at_once] for o in COMPARED if (o, at_once) in rates}
            for (arm, at_once), rate in rates.items()
            if arm.startswith("goodspeed")
        ]

    def write(self) -> None:
        """Into the file, if there is one."""
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        found = {
            "rows": [{"arm": r.arm, "at_once": r.at_once} | asdict(r.figures) for r in self.rows],
            "ratios": self.ratios(),
            "equality": self.equality,
            "missing": self.missing,
        }
        self._file.write_text(json.dumps(self._facts | found, indent=1) + "\n")

    def show(self, title: str) -> None:
        """Everything as tables."""
        table = Table(title=title)
        for name in ("arm", "at_once", *Figures.__annotations__):
            table.add_column(name, justify="right")
        for row in self.rows:
            table.add_row(*row.cells())
        self.console.print(table)
        if ratios := self.ratios():
            against = Table(title="tokens per second, times what the other arm has")
            names = [
                "arm",
                "at_once",
                *(n for o in COMPARED if any((n := f"times {o}") in r for r in ratios)),
            ]
            for name in names:
                against.add_column(name, justify="right")
            for ratio in ratios:
                cells = [ratio.get(name, "") for name in names]
                against.add_row(*(f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells))
            self.console.print(against)
        for arm, why in self.missing.items():
            self.console.print(f"{arm}: {why}", style="yellow", markup=False)
