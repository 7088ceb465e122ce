"""The verifier over real gRPC: hello, ragged drafts in one pass, the target's own tokens."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from peers import opening, until

from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import PROTOCOL_VERSION, pack_tokens

PROMPT = [104, 101, 108, 108, 111]


async def test_a_welcome_says_which_target_and_how(cell):
    async with cell.peer() as peer:
        assert peer.welcome.protocol_version == PROTOCOL_VERSION
        assert peer.welcome.verifier == "cell"
        assert peer.welcome.model_fingerprint == cell.target.model_fingerprint
        assert peer.welcome.tokenizer_fingerprint == cell.target.tokenizer_fingerprint
        assert peer.welcome.vocabulary_size == cell.target.vocabulary_size
        assert peer.welcome.max_context_tokens == 512
        assert peer.welcome.verification == pb.REJECTION


async def test_ragged_drafts_of_several_streams_are_verified_in_one_pass(make_cell, greedy):
    cell = await make_cell(budget_tokens=64)
    prompts = [PROMPT[: 2 + number] for number in range(4)]
    truths = [greedy(prompt, 12) for prompt in prompts]
    # Whose fourth guess is wrong, whose first, whose none, and who guesses nothing.
    guesses = [truths[0][1:6], truths[1][1:4], truths[2][1:3], []]
    guesses[0][3] = (guesses[0][3] + 1) % 256
    guesses[1][0] = (guesses[1][0] + 1) % 256
    expected = [(3, truths[0][4]), (0, truths[1][1]), (2, truths[2][3]), (0, truths[3][1])]
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(cell.peer(f"peer-{n}")) for n in range(4)]
        other = await stack.enter_async_context(cell.peer("other"))
        for number, (peer, prompt) in enumerate(zip(peers, prompts, strict=True)):
            opened = await peer.open(7 + number, prompt)
            assert (opened.position, opened.token) == (len(prompt), truths[number][0])
            assert opened.grant >= len(guesses[number])
        opened = await other.open(1, PROMPT)
        # A pass of somebody else's is under way while they arrive.
        cell.gate.clear()
        await other.draft(1, opened.position + 1, [])
        await until(cell.waits_at_gate.is_set)
        for number, (peer, prompt) in enumerate(zip(peers, prompts, strict=True)):
            await peer.draft(7 + number, len(prompt) + 1, guesses[number])
        await until(lambda: cell.engine.backlog == 4)
        before = len(cell.passes)
        cell.gate.set()
        verdicts = [await peer.reply("verdict") for peer in peers]
        assert all(peer.round_us > 0 for peer in peers)
        assert [sorted(tokens) for tokens in cell.passes[before:]] == [[1], [1, 3, 4, 6]]
    for number, (verdict, (accepted, token)) in enumerate(zip(verdicts, expected, strict=True)):
        assert (verdict.sequence, verdict.position) == (7 + number, len(prompts[number]) + 1)
        assert (verdict.accepted, verdict.next_token) == (accepted, token)
        assert verdict.has_next_token


async def test_prefixes_are_not_read_again(cell):
    """Every pass feeds the draft and the one token before it, however long the sequence is."""
    prompt = PROMPT * 40
    async with cell.peer() as peer:
        await peer.generate(1, prompt, 20)
    assert sum(tokens for (tokens,) in cell.passes) == len(prompt) + 19


async def test_a_long_prompt_is_read_in_chunks_while_others_go_on(make_cell, greedy):
    cell = await make_cell(prefill_chunk_tokens=16)
    prompt = PROMPT * 60
    async with cell.peer("long") as long, cell.peer("short") as short:
        opened, answer = await asyncio.gather(long.open(1, prompt), short.generate(1, PROMPT, 30))
    assert opened.token == greedy(prompt, 1)[0]
    assert answer == greedy(PROMPT, 30)
    assert max(sum(tokens) for tokens in cell.passes) <= 16 + 1


async def test_drafting_the_targets_own_choices_commits_the_grant_and_one_more(cell, greedy):
    truth = greedy(PROMPT, 60)
    async with cell.peer(max_draft_tokens=6) as peer:
        opened = await peer.open(1, PROMPT, max_tokens=60)
        committed, grant = 1, opened.grant
        while committed < 60:
            guess = truth[committed : committed + grant]
            await peer.draft(1, len(PROMPT) + committed, guess)
            verdict = await peer.reply("verdict")
            assert verdict.accepted == len(guess)
            committed += verdict.accepted + verdict.has_next_token
            grant = verdict.grant
            assert grant <= 6
    assert committed == 60
    assert verdict.finish == pb.FINISH_LENGTH


async def test_an_accepted_stop_token_ends_the_sequence_and_frees_its_slot(cell, greedy):
    truth = greedy(PROMPT, 12)
    at = next(index for index in range(2, 8) if truth[index] not in truth[:index])
    async with cell.peer() as peer:
        await peer.open(1, PROMPT, stop_tokens=pack_tokens([truth[at]]))
        await peer.draft(1, len(PROMPT) + 1, truth[1:9][: cell.settings.max_draft_tokens])
        verdict = await peer.reply("verdict")
        assert verdict.accepted == at
        assert not verdict.has_next_token
        assert verdict.finish == pb.FINISH_STOP
        await until(lambda: cell.slots_used() == 0)


async def test_a_sequence_opened_again_with_what_was_committed_goes_on_to_the_same_tokens(cell, greedy):
    truth = greedy(PROMPT, 20)
    async with cell.peer() as peer:
        opened = await peer.open(1, PROMPT + truth[:9], prompt_tokens=len(PROMPT), max_tokens=20)
        assert (opened.position, opened.token) == (len(PROMPT) + 9, truth[9])


async def test_grants_in_flight_never_exceed_the_budget(make_cell):
    cell = await make_cell(budget_tokens=10)

    async def write(peer):
        reply = await peer.open(1, PROMPT, max_tokens=60)
        place, granted = len(PROMPT) + 1, 0
        while reply.finish == pb.FINISH_NONE:
            assert sum(series.value for series in cell.series("goodspeed_drafter_grant_tokens")) <= 10
            granted += reply.grant
            if reply.grant:
                await peer.draft(1, place, [65] * reply.grant)
            reply = await peer.reply("verdict")
            place += reply.accepted + reply.has_next_token
        return granted

    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(cell.peer(f"peer-{n}")) for n in range(4)]
        assert min(await asyncio.gather(*map(write, peers))) > 0


async def test_more_sequences_than_slots_wait_and_are_opened_when_one_is_free(cell):
    async with cell.peer() as peer:
        for key in range(1, 9):
            await peer.open(key, PROMPT)
        for key in (9, 10):
            await peer.send(opens=[opening(key, PROMPT)])
        await until(lambda: [s.value for s in cell.series("goodspeed_drafter_queue_length")] == [2])
        await peer.send(closes=[pb.Close(sequence=3)])
        assert (await peer.reply("opened")).sequence == 9
        await peer.send(closes=[pb.Close(sequence=4)])
        assert (await peer.reply("opened")).sequence == 10


async def test_slots_go_to_the_drafter_that_has_the_fewest(cell):
    async with cell.peer("greedy") as greedy_peer, cell.peer("modest") as modest:
        for key in range(1, 9):
            await greedy_peer.open(key, PROMPT)
        for key in range(9, 30):
            await greedy_peer.send(opens=[opening(key, PROMPT)])
        await until(lambda: sum(s.value for s in cell.series("goodspeed_drafter_queue_length")) == 21)
        await modest.send(opens=[opening(1, PROMPT)])
        await until(lambda: sum(s.value for s in cell.series("goodspeed_drafter_queue_length")) == 22)
        await greedy_peer.send(closes=[pb.Close(sequence=1)])
        assert (await modest.reply("opened")).sequence == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_what_shares_the_rounds_does_not_change_an_answer(cell, temperature):
    sampling = pb.Sampling(temperature=temperature, top_p=1, seed=5)

    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(cell.peer(f"peer-{n}")) for n in range(4)]
        alone = await peers[0].generate(1, PROMPT, 24, sampling=sampling)
        others = pb.Sampling(temperature=0.7, top_k=9, top_p=0.9, seed=1)
        together, *_ = await asyncio.gather(
            peers[0].generate(2, PROMPT, 24, sampling=sampling),
            *(peer.generate(2, PROMPT[:3], 24, sampling=others) for peer in peers[1:]),
        )
    assert together == alone
