"""Slots are handed out lowest first, rolled back by a length, and never shared."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.decoding.kv_cache import KVCache, LayerShape


def cache(slots=4):
    layers = [LayerShape(2, 4, 4), LayerShape(1, 4, 6)]
    return KVCache(layers, slots=slots, max_context=8, dtype=torch.bfloat16, device=torch.device("cpu"))


@given(st.lists(st.integers(0, 5), max_size=40))
def test_the_lowest_free_slot_is_given_and_none_twice(choices):
    slots, held = cache(), set()
    for choice in choices:
        if choice in held:
            slots.release(choice)
            held.remove(choice)
        else:
            got = slots.acquire()
            assert got == min(set(range(4)) - held, default=None)
            held |= set() if got is None else {got}
        assert slots.free_slots == 4 - len(held)


def test_a_reused_slot_starts_empty():
    slots = cache()
    slots.lengths[slots.acquire()] = 5
    slots.release(0)
    assert slots.lengths[slots.acquire()] == 0


def test_releasing_twice_is_an_error():
    slots = cache()
    slots.release(slots.acquire())
    with pytest.raises(ValueError, match="slot 0 is not taken"):
        slots.release(0)


def test_bytes_count_every_layer():
    assert cache().nbytes == 4 * 8 * 2 * (2 * 8 + 10)


def test_scrubbing_cleans_one_slot_only():
    slots = cache()
    for places in slots.keys:
        places.fill_(float("nan"))
    slots.scrub(1)
    assert [bool(slots.keys[0][slot].isnan().any()) for slot in range(4)] == [True, False, True, True]
