"""Rows of figures, all of one dataclass, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from rich.table import Table


def tabled(title: str, rows: Sequence[Any], *, digits: int) -> Table:
    """One column a field, one line a row, real numbers with so many digits after the point."""
    table = Table(title=title)
    for field in fields(rows[0]):
        table.add_column(field.name, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in asdict(row).values()))
    return table
