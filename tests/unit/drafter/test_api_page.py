"""docs/api.md names every parameter and every error that the API has."""

import re
from pathlib import Path

import pytest

from goodspeed_runtime.drafter import schemas

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "api.md").read_text()
NAMED = set(re.findall(r"`([a-z_0-9.]+)`", PAGE))
SOURCES = [path.read_text() for path in (ROOT / "runtime/goodspeed_runtime/drafter").glob("*.py")]


@pytest.mark.parametrize("request_type", [schemas.ChatRequest, schemas.CompletionRequest])
def test_every_parameter_is_explained(request_type: type) -> None:
    fields = set(request_type.model_fields) - {"stream_options"}
    assert fields <= NAMED
    assert "stream_options.include_usage" in NAMED


def test_whatever_is_refused_or_ignored_is_named() -> None:
    assert set(schemas._UNSUPPORTED) | schemas._IGNORED <= NAMED


def test_every_error_code_is_explained() -> None:
    codes = {code for text in SOURCES for code in re.findall(r'AnswerError\(\s*\d+,\s*"(\w+)"', text)}
    assert len(codes) > 8
    assert codes <= NAMED
