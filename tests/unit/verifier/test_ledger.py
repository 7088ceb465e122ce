"""What the ledger tells of drafters, between rounds and long after them."""

import numpy as np
import pytest

from goodspeed_runtime.metrics import VerifierMetrics
from goodspeed_runtime.verifier import ledger as module
from goodspeed_runtime.verifier.grants import Grants
from goodspeed_runtime.verifier.ledger import WINDOW_SECONDS, Ledger
from goodspeed_runtime.verifier.outcomes import Outcomes
from goodspeed_runtime.verifier.sequence import Account, Client
from goodspeed_runtime.verifier.settings import VerifierSettings

GOODPUT = "goodspeed_drafter_goodput_tokens_per_second"
EMITTED = "goodspeed_spec_decode_emitted_tokens_total"


class Books:
    """A ledger with a clock of its own."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        settings = VerifierSettings(name="cell")
        self.metrics = VerifierMetrics()
        self.grants = Grants(settings)
        self.ledger = Ledger(self.metrics, settings)

    def attach(self, name):
        client = Client(name, "pool", Account(name, 1.0), 4, lambda frame: None)
        self.grants.add(client)
        self.ledger.add(client)
        return client

    def detach(self, client):
        self.grants.remove(client)
        self.ledger.remove(client)

    def round(self, client, committed):
        row = (client.row, client.account.row, 3, 2.0, committed, committed - 1, 3, 0.01, 0.005, 0.03, False)
        self.ledger.round(
            Outcomes.of([row]), tokens=4, forward=0.01, schedule=0.001, grants=self.grants, sent_bytes=9
        )

    def value(self, name, client):
        (sample,) = (
            sample
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and sample.labels["drafter"] == client.name
        )
        return sample.value


@pytest.fixture
def books(monkeypatch):
    return Books(monkeypatch)


def test_counts_of_many_rounds_are_there_when_somebody_looks(books):
    client = books.attach("a")
    for _ in range(1000):
        books.now += 0.01
        books.round(client, 3)
    assert books.value(EMITTED, client) == books.value(EMITTED, client) == 3000


def test_goodput_per_second_is_that_of_the_window_and_none_where_no_round_has_run(books):
    client = books.attach("a")
    for tokens in (2, 4):
        for _ in range(100):
            books.now += 0.1
            books.round(client, tokens)
    assert books.value(GOODPUT, client) == pytest.approx(40, rel=0.1)
    books.now += WINDOW_SECONDS / 2
    assert books.value(GOODPUT, client) == pytest.approx(20, rel=0.15)
    books.now += WINDOW_SECONDS
    assert books.value(GOODPUT, client) == 0


def test_a_drafter_that_gets_anothers_row_starts_at_nothing(books):
    first, other = books.attach("a"), books.attach("b")
    for _ in range(30):
        books.now += 0.1
        books.round(first, 4)
        books.round(other, 1)
    books.detach(first)
    second = books.attach("c")
    assert second.row == first.row
    assert books.value(GOODPUT, second) == 0
    books.round(second, 3)
    assert books.value(GOODPUT, second) == pytest.approx(3 / WINDOW_SECONDS)
    assert books.value(GOODPUT, other) == pytest.approx(30 / WINDOW_SECONDS)


def test_more_drafters_than_the_ledger_had_room_for_keep_their_counts(books):
    first = books.attach("first")
    books.round(first, 4)
    clients = [books.attach(f"drafter-{number}") for number in range(40)]
    books.now += 0.3
    for client in clients:
        books.round(client, 2)
    assert np.all([books.value(EMITTED, client) == 2 for client in clients])
    assert books.value(EMITTED, first) == 4
    assert books.value(GOODPUT, first) == pytest.approx(4 / WINDOW_SECONDS)
