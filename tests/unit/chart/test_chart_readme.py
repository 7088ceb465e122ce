"""The chart's README says every value as values.yaml has it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

README = runpy.run_path(str(Path(__file__).parents[3] / "charts/readme.py"))


def test_the_committed_table_is_made_from_the_values(chart_folder: Path) -> None:
    text = (chart_folder / "README.md").read_text()
    made = README["rendered"](text, (chart_folder / "values.yaml").read_text())
    assert text == made, "run `make reference`"


def test_every_value_has_a_word_of_explanation(chart_folder: Path) -> None:
    for row in README["table"]((chart_folder / "values.yaml").read_text()).splitlines()[2:]:
        value, _, explained = row.strip("| ").split(" | ", 2)
        assert len(explained) > 5, value


def test_a_section_is_told_from_a_value_that_is_an_object() -> None:
    table = README["table"]("# a list\na: []\nb:\n  # text with | in it\n  c: {d: 1}\n")
    assert table.splitlines()[2:] == [
        "| `a` | `[]` | a list |",
        '| `b.c` | `{"d": 1}` | text with \\| in it |',
    ]


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the values"):
        README["rendered"]("# A page\n", "a: 1\n")
