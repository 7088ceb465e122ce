"""Which rules keep answers lossless, and which of them are built."""

from __future__ import annotations

BUILT = ("rejection",)
_PLANNED = ("coupled",)


def check_verification(name: str) -> str:
    """Passes the name of a built rule on.

    Raises:
        ValueError: the rule is not built; the message names those that are.
    """
    if name in BUILT:
        return name
    why = "is not built yet" if name in _PLANNED else "is not known"
    raise ValueError(f"verification {name!r} {why}; use {' or '.join(BUILT)}")
