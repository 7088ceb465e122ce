"""Model URIs as the resource takes them: their grammar, for the operator that carries no models."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

from goodspeed_operator.api.part import Checked, Rule

BUILTIN_DRAFTERS = ("smollm2-135m-draft-1l", "smollm2-135m-draft-2l", "smollm2-135m-draft-4l")

_WORD = r"[A-Za-z0-9_.-]+"
FORMS = {
    "hf://org/name or hf://org/name@revision": rf"hf://{_WORD}/{_WORD}(@[A-Za-z0-9_./-]+)?",
    "pvc://claim/path": r"pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^/].*)?",
    "file:///absolute/path": r"file:///.+",
    "pypi://package": r"pypi://[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?",
    "builtin://name": r"builtin://[a-z0-9][a-z0-9.-]*",
    "ngram://": r"ngram://",
}
PATTERN = "^(" + "|".join(FORMS.values()) + ")$"
_TARGETS = list(FORMS)[:4]


def _well_formed(uri: str) -> bool:
    return re.fullmatch(PATTERN, uri) is not None and re.search("/[.][.](/|$)", uri) is None


_FORM_RULE = Rule(
    cel=f"self.matches(r'{PATTERN}') && !self.matches(r'/[.][.](/|$)')",
    message="model must be one of " + ", ".join(FORMS),
    holds=_well_formed,
)
_TARGET_RULE = Rule(
    cel="!self.startsWith('ngram://') && !self.startsWith('builtin://')",
    message="model of the target must be a whole model, one of " + ", ".join(_TARGETS),
    holds=lambda uri: not uri.startswith(("ngram://", "builtin://")),
)
_BUILTIN_RULE = Rule(
    cel="!self.startsWith('builtin://') || self in ["
    + ", ".join(f"'builtin://{name}'" for name in BUILTIN_DRAFTERS)
    + "]",
    message="model is no built-in drafter; use one of "
    + ", ".join(f"builtin://{n}" for n in BUILTIN_DRAFTERS),
    holds=lambda uri: not uri.startswith("builtin://") or uri.removeprefix("builtin://") in BUILTIN_DRAFTERS,
)

TargetURI = Annotated[str, StringConstraints(min_length=1, max_length=512), Checked(_FORM_RULE, _TARGET_RULE)]
DrafterURI = Annotated[
    str, StringConstraints(min_length=1, max_length=512), Checked(_FORM_RULE, _BUILTIN_RULE)
]


def claim_of(uri: str) -> str | None:
    """The persistent volume claim that a ``pvc://`` URI names."""
    return uri.removeprefix("pvc://").partition("/")[0] if uri.startswith("pvc://") else None
