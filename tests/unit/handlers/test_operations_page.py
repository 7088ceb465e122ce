"""docs/operations.md names every condition, reason and step that a cluster can show."""

from __future__ import annotations

import re
from pathlib import Path

from goodspeed_operator.api.status import ConditionType, Reason
from goodspeed_operator.resources.rollout import Step

PAGE = (Path(__file__).parents[3] / "docs/operations.md").read_text()
NAMED = set(re.findall(r"`([A-Za-z]+)`", PAGE))


def test_every_condition_and_every_reason_has_its_row() -> None:
    assert {kind.value for kind in ConditionType} <= NAMED
    assert {reason.value for reason in Reason} <= NAMED


def test_the_steps_that_take_long_are_explained() -> None:
    assert {Step.GROW.value, Step.MAKE_ROOM.value} <= NAMED
