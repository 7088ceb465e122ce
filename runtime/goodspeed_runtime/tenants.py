"""How tenants are written on both servers' command lines; pure, and checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST_TENANTS = 64
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-6, 1e6


def parse_weights(text: str) -> tuple[tuple[str, float], ...]:
    """Names and weights from ``gold=2,silver``; a weight that is left out is 1.

    Raises:
        ValueError: naming the entry and what is wrong with it.
    """
    found = []
    for name, weight in _entries(text, "name=weight"):
        try:
            number = float(weight) if weight is not None else 1.0
        except ValueError:
            raise ValueError(f"tenant {name}: {weight!r} is no number; write {name}=2") from None
        if not _LEAST_WEIGHT <= number <= _MOST_WEIGHT:
            raise ValueError(
                f"tenant {name}: weight {weight} is not from {_LEAST_WEIGHT:g} to {_MOST_WEIGHT:g}"
            )
        found.append((name, number))
    return tuple(found)


def parse_names(text: str) -> tuple[str, ...]:
    """Names from ``gold,silver``.

    Raises:
        ValueError: naming the entry and what is wrong with it.
    """
    entries = _entries(text, "name")
    for name, value in entries:
        if value is not None:
            raise ValueError(f"tenant {name}: a weight is the verifier's to know; leave ={value} out")
    return tuple(name for name, _ in entries)


def parse_files(text: str, tenants: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names and paths from ``gold=/keys/gold,silver=/keys/silver``: of all ``tenants``, or of none.

    Raises:
        ValueError: naming the entry and what is wrong with it.
    """
    entries = _entries(text, "name=path")
    for name, path in entries:
        if not path:
            raise ValueError(f"tenant {name}: needs the path of its keys' file; write {name}=/path")
    different = sorted(set(tenants) ^ {name for name, _ in entries})
    if entries and different:
        known = different[0] in tenants
        raise ValueError(
            f"tenant {different[0]} has no keys: give all tenants some, or none"
            if known
            else f"{different[0]!r} is none of the tenants"
        )
    return tuple((name, path or "") for name, path in entries)


def _entries(text: str, form: str) -> list[tuple[str, str | None]]:
    entries = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        name, equals, value = part.partition("=")
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no tenant's name: up to 63 lower-case letters, digits and '-', from a letter "
                f"to a letter or digit; write {form}, with commas between"
            )
        entries.append((name, value if equals else None))
    names = [name for name, _ in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"tenant {twice[0]} stands there twice; keep one")
    if len(entries) > MOST_TENANTS:
        raise ValueError(f"{len(entries)} tenants; at most {MOST_TENANTS}")
    return entries
