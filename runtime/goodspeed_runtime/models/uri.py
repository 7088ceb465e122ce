"""Model URIs: where a model comes from, in one word of a manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Scheme(StrEnum):
    """The kinds of place a model can come from."""

    HF = "hf"
    PVC = "pvc"
    FILE = "file"
    PYPI = "pypi"
    BUILTIN = "builtin"
    NGRAM = "ngram"


_FORMS = {
    Scheme.HF: ("hf://org/name or hf://org/name@revision", r"[\w.-]+/[\w.-]+(@[\w./-]+)?"),
    Scheme.PVC: ("pvc://claim/path", r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^/].*)?"),
    Scheme.FILE: ("file:///absolute/path", r"/.+"),
    Scheme.PYPI: ("pypi://package", r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?"),
    Scheme.BUILTIN: ("builtin://name", r"[a-z0-9][a-z0-9.-]*"),
    Scheme.NGRAM: ("ngram://", r""),
}


class ModelURIError(ValueError):
    """A text is no model URI; the message names the forms there are."""


class ModelNotFoundError(LookupError):
    """A well-formed URI leads to no model; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class ModelURI:
    """A parsed model URI.

    Attributes:
        scheme: the kind of place.
        path: what follows ``scheme://``, without the revision.
        revision: of an ``hf`` model; empty for its default branch.
    """

    scheme: Scheme
    path: str
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> ModelURI:
        """Parses a URI.

        Raises:
            ModelURIError: with the forms that are understood.
        """
        name, separator, path = text.partition("://")
        if not separator or name not in set(Scheme):
            forms = ", ".join(form for form, _ in _FORMS.values())
            raise ModelURIError(f"{text!r} is no model URI; use one of {forms}")
        scheme = Scheme(name)
        form, pattern = _FORMS[scheme]
        if not re.fullmatch(pattern, path) or ".." in path.split("/"):
            raise ModelURIError(f"{text!r} has not the form {form}")
        revision = ""
        if scheme is Scheme.HF:
            path, _, revision = path.partition("@")
        return cls(scheme, path, revision)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}" + (f"@{self.revision}" if self.revision else "")

    @property
    def served_name(self) -> str:
        """A short name for people and for the ``model`` field of requests."""
        return self.path.rstrip("/").rpartition("/")[2] or self.scheme.value
