"""Rounds without a barrier: slow drafters, drafts overtaken by the verifier, and drafts made ahead."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from peers import until
from seats import Seat, Slow, model_engine

from goodspeed_runtime.drafter.lookup import LookupEngine
from goodspeed_runtime.verifier.admission import Barrier, Continuous

PROMPT = list(b"Once upon a time")
AHEAD = "goodspeed_drafter_ahead_tokens_total"


async def test_a_sequence_whose_drafter_never_drafts_gets_its_tokens_all_the_same(make_cell, greedy):
    cell = await make_cell(admission=Continuous())
    truth = greedy(PROMPT, 40)
    async with cell.peer() as peer:
        reply = await peer.open(1, PROMPT, max_tokens=40)
        assert reply.grant > 0
        answer = [reply.token]
        while len(answer) < 40:
            verdict = await peer.reply("verdict")
            assert verdict.draft_awaited
            assert verdict.grant == 0
            answer.append(verdict.next_token)
    assert answer == truth


async def test_a_draft_that_was_overtaken_counts_as_far_as_it_agrees(make_cell, greedy):
    cell = await make_cell(admission=Continuous())
    truth = greedy(PROMPT, 40)
    async with cell.peer() as peer:
        opened = await peer.open(1, PROMPT)
        place = opened.position + 1
        first = await peer.reply("verdict")
        assert (first.position, first.next_token) == (place, truth[1])
        cell.gate.clear()
        await until(cell.waits_at_gate.is_set)
        # Begun where the grant was given, all of it right.
        await peer.draft(1, place, truth[1 : 1 + opened.grant])
        await until(lambda: cell.engine.backlog)
        cell.gate.set()
        got = 2
        while (verdict := await peer.reply("verdict")).draft_awaited:
            assert (verdict.position, verdict.next_token) == (place + got - 1, truth[got])
            got += 1
        assert verdict.position == place + got - 1
        assert verdict.accepted == opened.grant + 1 - got
        assert verdict.next_token == truth[opened.grant + 1]


async def test_a_draft_that_was_overtaken_by_other_tokens_is_dropped_without_an_error(make_cell, greedy):
    cell = await make_cell(admission=Continuous())
    truth = greedy(PROMPT, 40)
    async with cell.peer() as peer:
        opened = await peer.open(1, PROMPT, max_tokens=40)
        answer, wrong, sent = [opened.token], (truth[1] + 1) % 256, False
        while len(answer) < 40:
            verdict = await peer.reply("verdict")
            assert verdict.accepted == 0
            answer.append(verdict.next_token)
            if not sent:
                await peer.draft(1, opened.position + 1, [wrong, truth[2]])
                sent = True
    assert answer == truth


@pytest.mark.parametrize("admission", [Continuous, Barrier])
@pytest.mark.parametrize("engine", ["model", "itself", "lookup", "slow"])
async def test_answers_are_the_targets_own_whatever_is_drafted_ahead(
    make_cell, greedy, folder, tokenizer, admission, engine
):
    cell = await make_cell(admission=admission(), budget_tokens=64, pass_seconds=0.01)
    made = {
        "model": lambda: model_engine(folder),
        "itself": lambda: model_engine(folder, "target"),
        "lookup": LookupEngine,
        "slow": lambda: Slow(model_engine(folder), 0.03),
    }[engine]()
    seat = Seat(cell, tokenizer, made)
    prompts = [PROMPT[: 4 + 3 * number] * 2 for number in range(4)]
    async with seat.serving():
        answers = await asyncio.gather(*(seat.ask(prompt, 60) for prompt in prompts))
    assert answers == [greedy(prompt, 60) for prompt in prompts]
    if engine == "itself":
        assert seat.metric(AHEAD, result="kept") > 0


async def test_a_draft_made_ahead_is_ready_when_its_grant_comes(make_cell, greedy, folder, tokenizer):
    """A drafter as good as the target, once it knows that: nothing is drafted on demand."""
    cell = await make_cell(admission=Barrier(), budget_tokens=64, pass_seconds=0.1)
    truth, calls = greedy(PROMPT, 60), []
    engine = model_engine(folder, "target")
    forward = engine._model.forward

    def counted(segments):
        calls.append([len(segment.tokens) for segment in segments])
        return forward(segments)

    engine._model.forward = counted
    seat = Seat(cell, tokenizer, engine, max_draft_tokens=4)
    async with seat.serving():
        assert await seat.ask(PROMPT, 60) == truth
    # The cache is never rolled back: every token is fed once. An unsure guess is not followed ahead, and each
    # confidence is unsure until it has been tested; from then on tokens go one at a time.
    assert calls[0] == [len(PROMPT)]
    assert all(call == [1] for call in calls[30:])
    assert len(PROMPT) + 59 <= sum(tokens for call in calls for tokens in call) <= len(PROMPT) + 60 + 12


async def test_one_slow_drafter_delays_nobody_else_and_a_barrier_shows_the_difference(
    make_cell, greedy, folder, tokenizer
):
    seconds = {}
    for admission in (Continuous, Barrier):
        cell = await make_cell(admission=admission(), budget_tokens=32)
        quick = Seat(cell, tokenizer, LookupEngine(), "quick")
        slow = Seat(cell, tokenizer, Slow(LookupEngine(), 0.1), "slow")
        async with quick.serving(), slow.serving():
            other = asyncio.create_task(slow.ask(PROMPT * 2, 400))
            await asyncio.sleep(0.3)
            started = time.monotonic()
            assert await quick.ask(PROMPT * 2, 100) == greedy(PROMPT * 2, 100)
            seconds[admission] = time.monotonic() - started
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)
    assert seconds[Continuous] < seconds[Barrier] / 2


async def test_coupled_answers_are_the_same_whatever_drafts_and_however_rounds_go(
    make_cell, folder, tokenizer
):
    answers = {}
    for admission in (Continuous, Barrier):
        cell = await make_cell(admission=admission(), verification="coupled", budget_tokens=48)
        engines = {
            "model": model_engine(folder, coupled=True),
            "itself": model_engine(folder, "target", coupled=True),
            "lookup": LookupEngine(),
        }
        async with AsyncExitStack() as stack:
            for name, engine in engines.items():
                seat = Seat(cell, tokenizer, engine, name, verification="coupled")
                await stack.enter_async_context(seat.serving())
                for seed in (1, 2):
                    answer = await seat.ask(PROMPT, 60, temperature=0.9, seed=seed)
                    answers.setdefault(seed, set()).add(tuple(answer))
    assert [len(found) for found in answers.values()] == [1, 1]
    assert answers[1] != answers[2]


async def test_round_trips_are_measured_without_the_time_that_a_drafter_holds_a_grant(
    make_cell, folder, tokenizer
):
    cell = await make_cell(admission=Barrier())
    seat = Seat(cell, tokenizer, Slow(LookupEngine(), 0.1), draft_ahead=False)
    async with seat.serving():
        await seat.ask(PROMPT, 12)
        (trip,) = cell.series("goodspeed_drafter_round_trip_seconds")
        assert 0 < trip.value < 0.05
