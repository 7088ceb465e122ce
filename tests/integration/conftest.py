"""A fleet that the tests here share."""

from contextlib import AsyncExitStack

import pytest
from peers import Cell

from fleet_fixtures import folder, greedy, own, tokenizer
from goodspeed_runtime.decoding.packed import PackedModel
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_runtime.verifier.messages import Target
from processes import CONTEXT, Fleet
from what_arrived import WhatArrived

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


@pytest.fixture(scope="session")
def packed(folder):
    """The target as a verifier holds it, for the cells of all tests."""
    return PackedModel(
        load_model(ModelURI.parse(f"file://{folder / 'target'}"), dtype="float32"),
        slots=8,
        max_context=CONTEXT,
    )


@pytest.fixture
async def make_cell(packed, tokenizer):
    """Serves cells of the settings a test asks for; at the end every slot must have come free.

    Their rounds take what has arrived and nothing else, unless the test wants another admission.
    """
    async with AsyncExitStack() as stack:

        async def make(**settings):
            target = Target(
                "target", tokenizer.fingerprint, tokenizer.vocabulary_size, packed.vocabulary_size
            )
            defaults = {"max_sequences": 8, "admission": WhatArrived()}
            cell = Cell(packed, target, **(defaults | settings))
            return await stack.enter_async_context(cell.serving("127.0.0.1"))

        yield make


@pytest.fixture
async def cell(make_cell):
    return await make_cell()
