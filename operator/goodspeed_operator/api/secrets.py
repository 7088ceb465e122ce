"""Secrets that stand beside a cluster in its file, for a machine that has no API server to ask."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

Secrets = Mapping[tuple[str, str], Mapping[str, str]]
"""Data by (namespace, name)."""


class SecretError(ValueError):
    """A Secret is none; the message names it and the field, and never a value."""


def is_secret(document: Any) -> bool:
    """Whether a document of a file says that it is a Secret."""
    return (
        isinstance(document, Mapping)
        and document.get("kind") == "Secret"
        and document.get("apiVersion") == "v1"
    )


def read_secrets(documents: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, str]]:
    """The data of Secrets as the API server would hold it, decoded; ``stringData`` wins over ``data``.

    Raises:
        SecretError: one has no name, or an entry that is no text.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for document in documents:
        metadata = document.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        if not isinstance(metadata, Mapping) or not isinstance(name, str) or not name:
            raise SecretError("a Secret without metadata.name: add it")
        key = (str(metadata.get("namespace") or "default"), name)
        if key in found:
            raise SecretError(f"Secret {name} stands there twice; keep one")
        plain = _entries(document, "stringData", name)
        encoded = _entries(document, "data", name)
        try:
            decoded = {
                entry: base64.b64decode(value, validate=True).decode() for entry, value in encoded.items()
            }
        except (binascii.Error, UnicodeDecodeError):
            raise SecretError(
                f"Secret {name}: data is not text in base64; use stringData for plain text"
            ) from None
        found[key] = decoded | plain
    return found


def _entries(document: Mapping[str, Any], field: str, name: str) -> dict[str, str]:
    entries = document.get(field) or {}
    if not isinstance(entries, Mapping) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in entries.items()
    ):
        raise SecretError(f"Secret {name}: {field} must be a section of texts; write numbers in quotes")
    return dict(entries)
