"""Fixtures of tests that start servers: models, a fleet to be broken, and the target's own answers."""

import pytest

from goodspeed_runtime.decoding.reference import Reference
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.tokenizer import load_tokenizer
from goodspeed_runtime.models.uri import ModelURI
from processes import Fleet
from tiny_model import make


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make(folder / "target", seed=1)
    make(folder / "draft", seed=1, layers=1)
    make(folder / "alien", seed=1, layers=1, extra=3)
    return folder


@pytest.fixture
def own(folder, tmp_path):
    """A fleet of one test's own, to be broken."""
    fleet = Fleet(folder, tmp_path)
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def fleet(folder, tmp_path_factory):
    """A verifier, a drafter with a model and one that looks up, for tests that mend what they break."""
    fleet = Fleet(folder, tmp_path_factory.mktemp("fleet"))
    try:
        verifier = fleet.verifier(max_sequences=8)
        fleet.drafter("model", fleet.uri("draft"), verifier)
        fleet.drafter("lookup", "ngram://", verifier)
        fleet.wait()
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture(scope="session")
def greedy(folder):
    """The target's own greedy answer, from plain passes."""
    reference = Reference(load_model(ModelURI.parse(f"file://{folder / 'target'}"), dtype="float32"))

    def answer(prompt, count, stop_tokens=()):
        return list(reference.greedy(prompt, count, stop_tokens))

    return answer


@pytest.fixture(scope="session")
def tokenizer(folder):
    return load_tokenizer(ModelURI.parse(f"file://{folder / 'target'}"))
