"""When Python looks for garbage that refers to itself: seldom, and never among what stays for good."""

from __future__ import annotations

import gc

_YOUNG = 50_000
"""New containers that call for a look. A round's own, some ten a sequence, are gone again before."""


def exempt_loaded() -> None:
    """Counts everything that is there now as staying: model, libraries, settings.

    A look at all of that takes longer than a round and falls into one.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
