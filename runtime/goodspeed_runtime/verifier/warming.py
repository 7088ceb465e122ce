"""Passes before anyone waits for one."""

from __future__ import annotations

from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.served import ServedModel
from goodspeed_runtime.decoding.verification import Request, verify
from goodspeed_runtime.verifier.sequence import NOTHING


def warm_up(model: ServedModel) -> None:
    """One pass of each kind before anyone waits for it."""
    slot = model.acquire()
    if slot is None:
        return
    try:
        for tokens in ([0] * 8, [0]):
            logits = model.forward([Segment(slot, 0, tokens, 1)])
            verify(logits, [Request(len(tokens), NOTHING, Sampling(temperature=1.0))])
    finally:
        model.lengths[slot] = 0
        model.release(slot)
