"""docs/reference.md is what the types say, and leaves nothing out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from goodspeed_operator.api.cluster import Spec
from goodspeed_operator.api.reference import render
from goodspeed_operator.api.structural import structural

ROOT = Path(__file__).parents[3]
AS_IN_A_POD = {"affinity", "tolerations", "topologySpreadConstraints", "podSelector", "namespaceSelector"}


def fields(schema: dict[str, Any]) -> Iterator[str]:
    for name, part in schema.get("properties", {}).items():
        yield name
        if name not in AS_IN_A_POD:
            yield from fields(part.get("items", part))


def messages(schema: dict[str, Any]) -> Iterator[str]:
    for name, part in schema.get("properties", {}).items():
        if name not in AS_IN_A_POD:
            yield from (rule["message"] for rule in part.get("x-kubernetes-validations", ()))
            yield from messages(part.get("items", part))


def test_the_committed_page_is_made_from_the_types() -> None:
    assert (ROOT / "docs/reference.md").read_text() == render(), "run `make reference`"


def test_every_field_of_the_spec_has_a_row_or_a_section() -> None:
    page = render()
    named = set(re.findall(r"^(?:\| |## )`([^`]+)`", page, re.MULTILINE))
    last = {re.sub(r"\[\]$", "", name).rpartition(".")[2] for name in named}
    # A section that stands inside another's table is there by its fields.
    within = {part.removesuffix("[]") for name in named for part in name.split(".")}
    assert set(fields(structural(Spec))) <= last | within


def test_every_rule_is_quoted() -> None:
    page = render()
    rules = set(messages(structural(Spec)))
    assert len(rules) > 10
    assert [message for message in rules if message not in page] == []
