"""Writes the table of values into the chart's README, from the comments in values.yaml.

``python charts/readme.py`` rewrites charts/goodspeed/README.md between its two marks.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "goodspeed"
BEGIN, END = "<!-- values: made by `make reference`; edit values.yaml, not this -->", "<!-- end of values -->"


def rows(node: yaml.MappingNode, lines: list[str], path: str = "") -> Iterator[tuple[str, str, str]]:
    """Every value that is no section: its path, its default as JSON, and the comment above it."""
    for key, value in node.value:
        name = f"{path}.{key.value}" if path else str(key.value)
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            yield from rows(value, lines, name)
        else:
            yield name, json.dumps(_plain(value)), _comment(lines, key.start_mark.line)


def _plain(node: yaml.Node) -> Any:
    return yaml.safe_load(yaml.serialize(node))


def _comment(lines: list[str], line: int) -> str:
    """The comment lines right above a line."""
    found: list[str] = []
    while line > 0 and (match := re.fullmatch(r"\s*# ?(.*)", lines[line - 1])):
        found.insert(0, match[1])
        line -= 1
    return " ".join(found)


def table(values: str) -> str:
    """The table of values as Markdown."""
    node = yaml.compose(values, yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    cells = (
        f"| `{name}` | `{default}` | {comment.replace('|', chr(92) + '|')} |"
        for name, default, comment in rows(node, values.splitlines())
    )
    return "\n".join(["| value | default | what it is |", "|---|---|---|", *cells])


def rendered(readme: str, values: str) -> str:
    """The README with the table as it should be.

    Raises:
        ValueError: a mark is missing.
    """
    before, _, rest = readme.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"README.md has no place for the values: it needs the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{table(values)}\n{END}{after}"


def main() -> None:
    """Rewrites the README."""
    path = CHART / "README.md"
    path.write_text(rendered(path.read_text(), (CHART / "values.yaml").read_text()))
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
