"""The rounds' thread: what it is told it does, also when a pass or the bookkeeping after it fails."""

import threading
import time

import pytest

from goodspeed_runtime.decoding.packed import PackedModel
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.metrics import VerifierMetrics
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import DraftBlock
from goodspeed_runtime.scheduling.timing import VerificationCost
from goodspeed_runtime.verifier import engine as engine_module
from goodspeed_runtime.verifier.engine import Engine
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.messages import Arrival
from goodspeed_runtime.verifier.sequence import Account, Client, Sequence, compact
from goodspeed_runtime.verifier.settings import VerifierSettings
from tiny_model import make as make_model
from what_arrived import WhatArrived

PROMPT = [104, 101, 108]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("model") / "target", layers=1, positions=64)
    loaded = load_model(ModelURI.parse(f"file://{folder}"), dtype="float32")
    return PackedModel(loaded, slots=4, max_context=64)


class Mailbox:
    """Frames that the engine delivered, awaited."""

    def __init__(self):
        self._frames, self._changed = [], threading.Condition()

    def __call__(self, frame):
        with self._changed:
            self._frames.append(frame)
            self._changed.notify_all()

    def take(self):
        with self._changed:
            assert self._changed.wait_for(lambda: self._frames, 30), "nothing was delivered"
            return self._frames.pop(0)

    def silent(self, seconds):
        with self._changed:
            return not self._changed.wait_for(lambda: self._frames, seconds)


class Watched(WhatArrived):
    """Remembers what it was asked."""

    def __init__(self):
        self.views = []

    def decide(self, view):
        self.views.append(view)
        return super().decide(view)


class Bench:
    """An engine of its own with one client."""

    def __init__(self, model, monkeypatch, admission=None, longest_draft=4, **settings):
        self.model, self.monkeypatch = model, monkeypatch
        settings = VerifierSettings(name="bench", max_context_tokens=64, max_sequences=4, **settings)
        self.metrics = VerifierMetrics()
        self.ledger = Ledger(self.metrics, settings)
        self.admission = admission
        self.engine = Engine(model, settings, self.ledger, admission)
        self.mail = Mailbox()
        self.client = Client("client", "pool", Account("client", 1.0), longest_draft, self.mail)
        self.engine.start()
        self.engine.attach(self.client)

    def open(self, key, prompt=PROMPT):
        account, size = self.client.account, len(prompt)
        self.engine.open(
            Sequence(self.client, account, key, compact(prompt), size, 30, Sampling(0.0), frozenset(), 0.0)
        )

    def draft(self, key, position, tokens=()):
        arrival = Arrival(key, position, DraftBlock.point_masses(tokens), 0.0)
        self.engine.draft(self.client, [arrival])

    def length(self, key):
        """Tokens of a sequence; for when nothing is under way."""
        return len(self.client.sequences[key].tokens)

    def breaks(self, owner, name, times=1):
        """Makes a method fail for so many calls."""
        real, left = getattr(owner, name), [times]

        def broken(*positional, **named):
            if left[0]:
                left[0] -= 1
                raise RuntimeError("broken on purpose")
            return real(*positional, **named)

        self.monkeypatch.setattr(owner, name, broken)


@pytest.fixture
def make(model, monkeypatch):
    made = []

    def bench(admission=None, **settings):
        made.append(Bench(model, monkeypatch, admission, **settings))
        return made[-1]

    yield bench
    for each in made:
        each.engine.detach(each.client)
        each.engine.stop(30)
    if model.cache.free_slots < 4:
        for slot in range(4):
            if slot not in model.cache._free:
                model.release(slot)


@pytest.fixture
def bench(make):
    return make(Watched())


def test_with_a_barrier_nobody_is_served_while_a_draft_is_out(make):
    bench = make(barrier=True)
    bench.open(1)
    opened = bench.mail.take().opened[0]
    assert opened.grant
    bench.open(2)
    assert bench.mail.silent(0.5)
    bench.draft(1, opened.position + 1)
    frame = bench.mail.take()
    assert ([each.sequence for each in frame.verdicts], frame.opened[0].sequence) == ([1], 2)


@pytest.mark.parametrize("meanwhile", [False, True])
def test_each_round_divides_the_budget_once_whether_before_its_verdicts_or_after_them(
    make, monkeypatch, meanwhile
):
    """Where a device computes, grants are planned meanwhile: as many are made, and as much is timed."""
    bench = make(budget_tokens=4)
    monkeypatch.setattr(bench.engine, "_device_computes", meanwhile)
    bench.open(1)
    answer = bench.mail.take().opened[0]
    for _ in range(6):
        assert answer.grant
        bench.draft(1, bench.length(1), [0] * answer.grant)
        answer = bench.mail.take().verdicts[0]
    bench.engine.stop(30)
    rounds, solved = (
        sum(
            sample.value
            for family in bench.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and sample.labels.get("phase", "total") == "total"
        )
        for name in ("goodspeed_verifier_round_seconds_count", "goodspeed_scheduler_solve_seconds_count")
    )
    assert rounds == solved == 7


def test_without_a_barrier_nobody_waits_for_anothers_draft(make):
    bench = make()
    bench.open(1)
    assert bench.mail.take().opened[0].grant
    bench.open(2)
    while not (opened := bench.mail.take().opened):
        pass
    assert opened[0].sequence == 2


@pytest.mark.parametrize(("share", "chunks"), [(0.0, 5 * [8]), (1.02, 2 * [20])])
def test_a_prompt_beside_others_is_fed_in_the_share_that_is_set(make, model, monkeypatch, share, chunks):
    passes, real = [], model.forward

    def slow(segments):
        passes.append(sorted(len(segment.tokens) for segment in segments))
        time.sleep(0.05)  # or the first sequence is over before the second comes
        return real(segments)

    bench = make(longest_draft=0, prefill_share=share, prefix_sharing="off")
    monkeypatch.setattr(model, "forward", slow)
    monkeypatch.setattr(bench.engine._grants, "passes", lambda: VerificationCost.linear(0.019, 0.001))
    bench.open(1)
    bench.mail.take()
    bench.open(2, prompt=range(100, 140))
    while not bench.mail.take().opened:
        pass
    assert [sizes for sizes in passes if sizes[-1] > 3] == [[1, chunk] for chunk in chunks]


@pytest.mark.parametrize("part", ["forward", "grants", "ledger"])
def test_a_round_that_fails_anywhere_ends_its_sequences_with_an_error_and_the_next_goes_on(bench, part):
    bench.open(1)
    opened = bench.mail.take().opened[0]
    owner, name = {
        "forward": (bench.model, "forward"),
        "grants": (bench.engine._grants, "learn"),
        "ledger": (bench.ledger, "scheduled"),
    }[part]
    bench.breaks(owner, name)
    bench.draft(1, opened.position + 1)
    error = bench.mail.take().errors[0]
    assert (error.sequence, error.code) == (1, pb.INTERNAL)
    assert bench.model.cache.free_slots == 4
    bench.open(1)
    assert bench.mail.take().opened[0].token == opened.token
    assert not bench.engine.failed.is_set()


def test_a_failed_round_spares_sequences_that_were_not_in_it(bench):
    bench.open(1)
    bench.mail.take()
    bench.breaks(bench.model, "forward")
    bench.open(2)
    error = bench.mail.take().errors[0]
    assert error.sequence == 2
    bench.draft(1, 4)
    assert bench.mail.take().verdicts[0].sequence == 1


def test_passes_that_keep_failing_end_the_engine_so_that_the_process_is_restarted(bench):
    bench.breaks(bench.model, "forward", times=9)
    for _ in range(3):
        assert not bench.engine.failed.is_set()
        bench.open(1)
        bench.mail.take()
    assert bench.engine.failed.wait(30)


def test_a_fault_between_rounds_is_not_silent_either(bench):
    bench.breaks(bench.engine._roster, "open")
    bench.open(1)
    assert bench.engine.failed.wait(30)


def test_logits_that_are_not_finite_end_their_own_sequence_and_leave_a_clean_slot(bench):
    bench.open(1)
    bench.open(2)
    opened = {}
    while len(opened) < 2:
        opened |= {o.sequence: o for o in bench.mail.take().opened}
    slot = bench.client.sequences[1].slot
    for values in bench.model.cache.values:
        values[slot] = float("nan")
    bench.draft(1, 4)
    error = bench.mail.take().errors[0]
    assert (error.sequence, error.code) == (1, pb.INTERNAL)
    bench.draft(2, 4)
    assert bench.mail.take().verdicts[0].has_next_token
    bench.open(3)
    assert bench.mail.take().opened[0].token == opened[1].token


def test_what_a_sequence_costs_the_host_is_part_of_what_a_token_of_its_own_costs(bench):
    real = engine_module.commit_verdict

    def slowly(*positional, **named):
        time.sleep(0.02)
        return real(*positional, **named)

    bench.monkeypatch.setattr(engine_module, "commit_verdict", slowly)
    bench.open(1)
    place = bench.mail.take().opened[0].position + 1
    before = bench.admission.views[-1].token_seconds
    for _ in range(20):
        bench.draft(1, place)
        bench.mail.take()
        place += 1
    bench.open(2)
    bench.mail.take()
    assert bench.admission.views[-1].token_seconds > before + 0.01
