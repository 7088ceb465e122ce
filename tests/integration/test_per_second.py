"""Goodput per second: the verifier measures what drafts cost and waits for nobody who is slow."""

import asyncio

import numpy as np
from peers import until

PROMPT = list(b"Once upon a time")


async def follow(peer, sequence, truth, *, delay=0.0, wrong=False, pause=None):
    """Drafts the truth as far as granted; returns the answer and the grants.

    A draft takes `delay` seconds a token, or what `pause` says that hears of each, the empty ones included.
    """
    pause = pause or (lambda guess: delay * (len(guess) + 1))
    opened = await peer.open(sequence, PROMPT, max_tokens=len(truth))
    answer, grants = [opened.token], [opened.grant]
    while len(answer) < len(truth):
        guess = truth[len(answer) : len(answer) + grants[-1]]
        if wrong:
            guess = [(token + 1) % 256 for token in guess]
        held = pause(guess)
        if grants[-1]:
            await asyncio.sleep(held)
            await peer.draft(sequence, len(PROMPT) + len(answer), guess, held=held)
        verdict = await peer.reply("verdict")
        answer += guess[: verdict.accepted]
        if verdict.has_next_token:
            answer.append(verdict.next_token)
        grants.append(verdict.grant)
    return answer, grants


async def test_answers_are_the_targets_own(make_cell, greedy):
    cell = await make_cell(objective="perSecond", budget_tokens=12)
    truth = greedy(PROMPT, 80)
    async with cell.peer("quick") as quick, cell.peer("slow") as slow:
        both = await asyncio.gather(follow(quick, 1, truth), follow(slow, 1, truth, delay=0.01))
    assert [answer for answer, _ in both] == [truth, truth]


async def test_nothing_is_drafted_when_nothing_drafted_stands(make_cell, greedy):
    cell = await make_cell(objective="perSecond", budget_tokens=8)
    truth = greedy(PROMPT, 60)
    async with cell.peer() as peer:
        answer, grants = await follow(peer, 1, truth, delay=0.02, wrong=True)
    assert answer == truth
    assert sum(grants[20:]) < 0.2 * len(grants[20:])


async def test_a_quick_drafter_does_not_wait_for_a_slow_one(make_cell, greedy):
    cell = await make_cell(objective="perSecond", budget_tokens=8)
    truth = greedy(PROMPT, 200)
    async with cell.peer("quick") as quick, cell.peer("slow") as slow:
        opened = await slow.open(1, PROMPT, max_tokens=50)
        assert opened.grant >= 0
        before = len(cell.passes)
        answer, _ = await follow(quick, 1, truth)
        assert answer == truth
        assert len(cell.passes) > before
    await until(lambda: cell.slots_used() == 0)


async def test_a_drafter_that_slows_the_verifier_down_is_found_out_by_trying_without_it(make_cell, greedy):
    """All its drafts stand, but while it drafts passes take 80 ms; of others no model has seen one."""
    cell = await make_cell(objective="perSecond", budget_tokens=4)
    truth, grants = greedy(PROMPT, 400), []

    def slow_down(guess):
        cell.pass_seconds = 0.08 if guess else 0.0
        return 0.0

    async with cell.peer() as peer:
        for sequence in (1, 2, 3):
            answer, granted = await follow(peer, sequence, truth, pause=slow_down)
            grants += granted[1:]
            assert answer == truth
        tried = cell.series("goodspeed_scheduler_trial_seconds_total")[0].value
    assert min(grants[:50]) > 0
    assert sum(grants[-200:]) < 0.05 * 4 * 200
    assert 0 < tried < 3


async def test_a_drafter_that_was_slow_at_first_is_asked_again(make_cell, greedy):
    """Nothing is measured of one who drafts nothing: its first seconds must not be for ever."""
    cell = await make_cell(objective="perSecond", budget_tokens=4, pass_seconds=0.01)
    truth, grants, asked = greedy(PROMPT, 400), [], []

    def slow_at_first(guess):
        asked.extend([guess] if guess else [])
        return 0.4 if guess and len(asked) < 6 else 0.0

    async with cell.peer() as peer:
        for sequence in (1, 2, 3):
            answer, granted = await follow(peer, sequence, truth, pause=slow_at_first)
            grants += granted[1:]
            assert answer == truth
    assert 0 in grants
    assert np.count_nonzero(grants[-50:]) > 45
