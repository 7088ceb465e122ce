"""Tenants get their shares, whichever drafters and however many sequences they come by."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from peers import until
from seats import Seat, model_engine

from goodspeed_runtime.drafter import generation
from goodspeed_runtime.drafter.answer import AnswerError
from goodspeed_runtime.verifier.admission import Barrier, Continuous

PASS_SECONDS = 0.05
"""So that a pass is worth a wait for drafts, as one of a large target is."""
PROMPT = list(b"Once upon a time")
EMITTED = "goodspeed_tenant_emitted_tokens_total"
ROUNDS = "goodspeed_verifier_round_tokens_count"


def read(cell, name):
    """A metric's values by tenant, or under the empty name."""
    return {each.labels.get("tenant", ""): each.value for each in cell.series(name) if each.name == name}


@asynccontextmanager
async def busy(cell, tokenizer, folder, demand):
    """Two drafters as good as the target, of which each tenant keeps so many sequences busy."""

    async def keep_asking(seat, tenant):
        while True:
            await seat.ask(PROMPT, 400, tenant=tenant)

    async with AsyncExitStack() as stack:
        seats = [Seat(cell, tokenizer, model_engine(folder, "target"), name) for name in ("left", "right")]
        for seat in seats:
            await stack.enter_async_context(seat.serving())
        asking = [
            asyncio.create_task(keep_asking(seat, tenant))
            for tenant, counts in demand.items()
            for seat, count in zip(seats, counts, strict=True)
            for _ in range(count)
        ]
        try:
            yield
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)


async def emitted_between(cell, first, last):
    """Tokens that each tenant got from one number of rounds to another."""

    async def reached(rounds):
        async with asyncio.timeout(120):
            while read(cell, ROUNDS).get("", 0) < rounds:  # noqa: ASYNC110 - rounds run in a thread
                await asyncio.sleep(0.01)
        return read(cell, EMITTED)

    before, after = await reached(first), await reached(last)
    return {tenant: after[tenant] - before[tenant] for tenant in after}


@pytest.mark.parametrize("admission", [Barrier, Continuous])
async def test_a_tenant_of_twice_the_weight_gets_about_twice_the_tokens(
    make_cell, tokenizer, folder, admission
):
    tenants = (("single", 1.0), ("double", 2.0))
    cell = await make_cell(
        tenants=tenants, admission=admission(), budget_tokens=20, pass_seconds=PASS_SECONDS
    )
    async with busy(cell, tokenizer, folder, {"single": (1, 1), "double": (1, 1)}):
        got = await emitted_between(cell, 60, 160)
        assert read(cell, "goodspeed_tenant_active_sequences") == {"single": 2, "double": 2}
    assert read(cell, "goodspeed_tenant_weight") == dict(tenants)
    # By sequence they would get the same.
    assert 1.5 < got["double"] / got["single"] < 2.3


@pytest.mark.parametrize("admission", [Barrier, Continuous])
async def test_one_sequence_counts_for_about_as_much_as_anothers_seven_on_two_drafters(
    make_cell, tokenizer, folder, admission
):
    cell = await make_cell(
        tenants=(("one", 1.0), ("seven", 1.0)),
        admission=admission(),
        budget_tokens=8,
        pass_seconds=PASS_SECONDS,
    )
    async with busy(cell, tokenizer, folder, {"one": (1, 0), "seven": (4, 3)}):
        got = await emitted_between(cell, 60, 160)
        goodput = read(cell, "goodspeed_tenant_goodput_tokens_per_round")
    # Seven sequences get a token each from any round; nearly all of the budget goes to the other tenant. By
    # sequence it would get an eighth.
    assert got["one"] / got["seven"] > 0.5
    assert goodput["one"] / goodput["seven"] > 0.5


async def test_requests_that_name_no_tenant_are_the_drafters_own(make_cell, tokenizer, folder):
    cell = await make_cell(tenants=(("gold", 1.0),))
    seat = Seat(cell, tokenizer, model_engine(folder))
    async with seat.serving():
        await seat.ask(PROMPT, 20)
        await seat.ask(PROMPT, 20, tenant="gold")
        # A round is booked once its verdicts are out.
        await until(lambda: read(cell, EMITTED)["gold"] >= 20)
        assert read(cell, EMITTED) == {"gold": 20}


async def test_a_tenant_that_the_verifier_has_yet_to_be_told_of_is_asked_to_come_again(
    make_cell, tokenizer, folder, monkeypatch
):
    monkeypatch.setattr(generation, "RETRY_SECONDS", 0.01)
    cell = await make_cell(tenants=(("gold", 1.0),))
    seat = Seat(cell, tokenizer, model_engine(folder))
    async with seat.serving():
        with pytest.raises(AnswerError, match="'silver', which this verifier was not told of") as raised:
            await seat.ask(PROMPT, 20, tenant="silver")
        assert (raised.value.status, raised.value.code) == (503, "verifier_unavailable")
        assert len(await seat.ask(PROMPT, 20, tenant="gold")) == 20
