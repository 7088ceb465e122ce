"""A fleet that the tests here share."""

import pytest

from fleet_fixtures import folder, greedy, own, tokenizer
from processes import Fleet

__all__ = ["folder", "greedy", "own", "tokenizer"]


@pytest.fixture(scope="session")
def shared(folder, tmp_path_factory):
    fleet = Fleet(folder, tmp_path_factory.mktemp("shared"))
    try:
        verifier = fleet.verifier()
        fleet.drafter("model", fleet.uri("draft"), verifier)
        fleet.drafter("lookup", "ngram://", verifier)
        fleet.drafter("itself", fleet.uri("target"), verifier)
        fleet.wait()
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture
def verifier(shared):
    return shared["verifier"]


@pytest.fixture
def drafter(shared):
    return shared["model"]
