"""A sequence finds what slots hold of its beginning: all of that, nothing rejected, and nobody else's."""

import numpy as np
import pytest
import torch
from families import FAMILIES, OURS, VOCABULARY, loaded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from goodspeed_runtime.decoding.cpu.model import CPUModel
from goodspeed_runtime.decoding.kv_cache import KVCache, LayerShape
from goodspeed_runtime.decoding.packed import PackedModel
from goodspeed_runtime.decoding.prefixes import SHORTEST
from goodspeed_runtime.decoding.round import Segment

SLOTS, CONTEXT = 3, 48


def filled(cache, slot, start, tokens):
    """A pass that leaves in each place a number that only the tokens up to it give."""
    cache.wrote(slot, start, tokens)
    state = int(cache.keys[0][slot, start - 1].item()) if start else 7
    for place, token in enumerate(tokens, start):
        state = (state * 31 + int(token) + place) % 65521
        for places in (*cache.keys, *cache.values):
            places[slot, place] = state


def worth(tokens):
    state = 7
    for place, token in enumerate(tokens):
        state = (state * 31 + int(token) + place) % 65521
        yield state


class SharedSlots(RuleBasedStateMachine):
    """Sequences come, are fed, rolled back, spoilt and go, with beginnings in common."""

    @initialize()
    def start(self):
        self.cache = KVCache(
            [LayerShape(1, 1, 1)] * 2,
            slots=SLOTS,
            max_context=CONTEXT,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        self.live = {}
        self.holds = {}

    def wanted(self, kind, length):
        return np.array([3] * min(length, 20) + [kind] * max(0, length - 20), dtype=np.int32)

    @precondition(lambda self: len(self.live) < SLOTS)
    @rule(kind=st.integers(0, 2), length=st.integers(1, CONTEXT - 1), scope=st.sampled_from(["", "a", None]))
    def come(self, kind, length, scope):
        tokens = self.wanted(kind, length)
        best = 0
        for held, owner in self.holds.values():
            if owner == scope and scope is not None:
                same = 0
                while same < min(len(held), len(tokens)) and held[same] == tokens[same]:
                    same += 1
                best = max(best, same)
        slot = self.cache.acquire(tokens, scope)
        assert slot not in self.live
        assert self.cache.lengths[slot] == (best if best >= SHORTEST else 0)
        self.live[slot] = scope
        self.holds[slot] = (tokens[: self.cache.lengths[slot]].tolist(), scope)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), kind=st.integers(0, 2), count=st.integers(1, 30), back=st.integers(0, 6))
    def feed(self, data, kind, count, back):
        slot = data.draw(st.sampled_from(sorted(self.live)))
        held, scope = self.holds[slot]
        kept = max(0, len(held) - back)
        tokens = self.wanted(kind, min(CONTEXT, kept + count))[kept:].tolist()
        self.cache.lengths[slot] = kept
        if tokens:
            filled(self.cache, slot, kept, tokens)
        self.holds[slot] = (held[:kept] + tokens, scope)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), kind=st.integers(0, 2))
    def catch_up(self, data, kind):
        slot = data.draw(st.sampled_from(sorted(self.live)))
        held, scope = self.holds[slot]
        tokens = np.array(held + self.wanted(kind, CONTEXT)[len(held) :].tolist(), dtype=np.int32)
        grown = self.cache.extend(slot, tokens)
        assert grown == self.cache.lengths[slot] >= len(held)
        self.holds[slot] = (tokens[:grown].tolist(), scope)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), rejected=st.integers(0, 5), spoilt=st.booleans())
    def go(self, data, rejected, spoilt):
        slot = data.draw(st.sampled_from(sorted(self.live)))
        held, scope = self.holds[slot]
        kept = max(0, len(held) - rejected)
        self.cache.lengths[slot] = kept
        if spoilt:
            self.cache.keys[0][slot] = float("nan")
            self.cache.scrub(slot)
            kept = 0
        self.cache.release(slot)
        del self.live[slot]
        self.holds[slot] = (held[:kept], scope)

    @invariant()
    def every_place_that_counts_holds_what_its_tokens_give(self):
        for slot in getattr(self, "live", ()):
            held, _ = self.holds[slot]
            assert self.cache.lengths[slot] == len(held)
            for places in (*self.cache.keys, *self.cache.values):
                assert places[slot, : len(held)].flatten().tolist() == list(worth(held))


TestSharedSlots = SharedSlots.TestCase
TestSharedSlots.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def cache(slots=3):
    layers = [LayerShape(1, 2, 2)]
    return KVCache(layers, slots=slots, max_context=64, dtype=torch.float32, device=torch.device("cpu"))


LONG = np.arange(60, dtype=np.int32)


def held(slots, tokens, scope="", *, release=True):
    slot = slots.acquire(tokens, scope)
    at = slots.lengths[slot]
    slots.wrote(slot, at, tokens[at:])
    if release:
        slots.release(slot)
    return slot


def test_a_released_slot_is_taken_over_where_it_lies():
    slots = cache()
    first = held(slots, LONG)
    held(slots, LONG[::-1].copy())
    assert slots.acquire(LONG[:50], "") == first
    assert slots.lengths[first] == 50


def test_a_long_text_is_not_given_up_for_a_short_beginning():
    slots = cache()
    first = held(slots, LONG)
    assert slots.acquire(LONG[:20], "") != first
    assert slots.acquire(LONG, "") == first


def test_what_was_released_first_is_overwritten_first():
    slots = cache()
    texts = [LONG + 100 * n for n in range(4)]
    places = [held(slots, text) for text in texts]
    assert places[3] == places[0]
    assert slots.acquire(texts[1], "") == places[1]
    assert slots.lengths[places[1]] == len(LONG)


@pytest.mark.parametrize(("mine", "theirs"), [("a", "b"), ("a", ""), ("", None), (None, None)])
def test_nothing_is_shared_with_another_scope_nor_with_none(mine, theirs):
    slots = cache()
    held(slots, LONG, mine)
    slot = slots.acquire(LONG, theirs)
    assert slots.lengths[slot] == 0


@pytest.fixture(
    scope="module",
    params=[*((family, PackedModel) for family in FAMILIES), *((family, CPUModel) for family in OURS)],
    ids=lambda param: f"{param[0]}-{param[1].__name__}",
)
def model(request):
    family, kind = request.param
    return kind(loaded(family), slots=SLOTS, max_context=96)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    common=st.integers(SHORTEST, 60),
    mine=st.integers(1, 20),
    live=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_shared_beginning_gives_the_logits_of_one_that_was_computed(model, common, mine, live, seed):
    rng = np.random.default_rng(seed)
    beginning = rng.integers(0, VOCABULARY, common).astype(np.int32)
    text = np.concatenate([beginning, rng.integers(0, VOCABULARY, mine).astype(np.int32)])
    alone = model.acquire()
    expected = model.forward([Segment(alone, 0, text, mine)])
    model.release(alone)
    other = model.acquire(beginning, "x")
    at = model.lengths[other]
    if at < common:
        model.forward([Segment(other, at, beginning[at:], 1)])
    if not live:
        model.release(other)
    slot = model.acquire(text[:-1], "x")
    shared = model.lengths[slot]
    assert common <= shared < len(text)
    logits = model.forward([Segment(slot, shared, text[shared:], min(mine, len(text) - shared))])
    torch.testing.assert_close(logits, expected[-len(logits) :], atol=2e-4, rtol=2e-4)
    model.release(slot)
    if live:
        model.release(other)


def test_a_drafter_shares_beginnings_too():
    from goodspeed_runtime.decoding.sampling import Sampling
    from goodspeed_runtime.drafter.engine import Job
    from goodspeed_runtime.drafter.model_engine import ModelEngine

    fed = []
    packed = PackedModel(loaded("Llama"), slots=3, max_context=96)
    forward = packed.forward
    packed.forward = lambda segments: fed.append(sum(len(s.tokens) for s in segments)) or forward(segments)
    engine = ModelEngine(packed, "f", max_context=96, support_size=4, vocabulary_size=VOCABULARY)
    text = [int(t) for t in np.random.default_rng(3).integers(0, VOCABULARY, 60)]
    first = engine.draft([Job(1, text, 3, Sampling(0.0))])
    computed = sum(fed)
    fed.clear()
    again, other = engine.draft([Job(2, text, 3, Sampling(0.0)), Job(3, text, 3, Sampling(0.0), tenant="b")])
    assert first[0].block.tokens.tolist() == again.block.tokens.tolist() == other.block.tokens.tolist()
    assert sum(fed) == 3 + computed
