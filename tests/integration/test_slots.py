"""More sequences than slots: accounts take turns, and nothing of an answer is lost, repeated or changed."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from peers import Cell, opening, until
from seats import Seat, Slow, model_engine

from goodspeed_runtime.decoding.packed import PackedModel
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.verifier.admission import Continuous
from goodspeed_runtime.verifier.messages import Target
from processes import CONTEXT

PROMPT = [104, 101, 108, 108, 111]
SYSTEM = [(7 * n) % 250 for n in range(120)]


@pytest.fixture(scope="module")
def two_slots(folder):
    loaded = load_model(ModelURI.parse(f"file://{folder / 'target'}"), dtype="float32")
    return PackedModel(loaded, slots=2, max_context=CONTEXT)


@pytest.fixture
async def make_scarce(two_slots, tokenizer):
    async with AsyncExitStack() as stack:

        async def make(**fields):
            target = Target(
                "target", tokenizer.fingerprint, tokenizer.vocabulary_size, two_slots.vocabulary_size
            )
            defaults = {"admission": Continuous(), "max_sequences": 2, "turn_seconds": 0.2}
            return await stack.enter_async_context(
                Cell(two_slots, target, **(defaults | fields)).serving("127.0.0.1")
            )

        yield make


def total(cell, name, **labels):
    return sum(s.value for s in cell.series(name) if labels.items() <= s.labels.items())


@pytest.mark.parametrize(("verification", "temperature"), [("rejection", 0.0), ("coupled", 1.0)])
async def test_six_sequences_of_three_accounts_take_turns_on_two_slots(
    make_scarce, folder, tokenizer, verification, temperature
):
    cell = await make_scarce(verification=verification, pass_seconds=0.004, budget_tokens=64)
    prompts = {name: [[*PROMPT, number, extra] for extra in (1, 2)] for number, name in enumerate("abc")}
    coupled = verification == "coupled"
    order = []

    async def ask(seat, prompt):
        tokens, first = [], True
        async for part in seat.generation.generate(
            prompt, max_tokens=240, sampling=sampling(prompt, temperature), stop_tokens=()
        ):
            tokens += part.tokens
            if first:
                order.append(("first", seat_names[seat]))
                first = False
        order.append(("last", seat_names[seat]))
        return tokens

    async with AsyncExitStack() as stack:
        seats, seat_names = {}, {}
        for name in "abc":
            engine = model_engine(folder, coupled=coupled)
            seat = Seat(
                cell,
                tokenizer,
                Slow(engine, 0.01) if name == "b" else engine,
                name,
                verification=verification,
            )
            seats[name] = await stack.enter_async_context(seat.serving())
            seat_names[seat] = name
        alone = [await ask(seats[name], prompt) for name in "abc" for prompt in prompts[name]]
        assert total(cell, "goodspeed_verifier_preemptions_total") == 0
        order.clear()
        together = []
        for name in "abc":
            together += [asyncio.create_task(ask(seats[name], prompt)) for prompt in prompts[name]]
            await asyncio.sleep(0.05)
        assert await asyncio.gather(*together) == alone
    # Whoever came last has its first token before anybody is done.
    begun = {name for kind, name in order[: [kind for kind, _ in order].index("last")]}
    assert begun == set("abc")
    assert total(cell, "goodspeed_verifier_preemptions_total") > 1


def sampling(prompt, temperature):
    from goodspeed_runtime.decoding.sampling import Sampling

    return Sampling(temperature, seed=sum(prompt))


async def test_a_draft_on_its_way_to_a_preempted_sequence_costs_nothing_but_itself(make_scarce, greedy):
    cell = await make_scarce(pass_seconds=0.005)
    truth = greedy(PROMPT, 200)
    answers, places = {1: [], 2: []}, {}
    async with cell.peer("one") as one, cell.peer("two") as two:

        async def read():
            frame = await one.read()
            assert not frame.errors
            for reply in (*frame.opened, *frame.verdicts):
                answer = answers[reply.sequence]
                assert reply.position == len(PROMPT) + len(answer)
                tokens = [reply.token] if isinstance(reply, pb.Opened) else [reply.next_token]
                if not isinstance(reply, pb.Opened):
                    assert reply.accepted == 0
                answer += tokens
                places[reply.sequence] = places.get(reply.sequence) or len(PROMPT) + len(answer)

        await one.send(opens=[opening(key, PROMPT, max_tokens=200) for key in (1, 2)])
        while not all(answers.values()):
            await read()
        await two.send(opens=[opening(1, PROMPT, max_tokens=200)])
        # The first peer drafts nothing: it goes on by the verifier's own tokens until it has to give way.
        while not total(cell, "goodspeed_verifier_preemptions_total"):
            await read()
        assert (await two.reply("opened")).token == truth[0]
        (client,) = (c for c in cell.engine._roster.clients if c.name == "one")
        (waiting,) = (key for key, sequence in client.sequences.items() if sequence.slot < 0)
        place = places[waiting]
        await one.draft(waiting, place, truth[place - len(PROMPT) :][:1])
        await until(lambda: client.sequences[waiting].draft is not None)
        await two.send(closes=[pb.Close(sequence=1)])
        while min(map(len, answers.values())) < 200:
            await read()
    assert answers == {1: truth, 2: truth}


async def test_a_system_prompt_is_computed_once_whoever_sends_it_and_when(make_cell, greedy):
    cell = await make_cell(prefill_chunk_tokens=64)
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(cell.peer(f"peer-{n}")) for n in range(4)]
        cell.gate.clear()
        for number, peer in enumerate(peers):
            await peer.send(opens=[opening(1, [*SYSTEM, number])])
        await until(lambda: cell.slots_used() > 0)
        cell.gate.set()
        for number, peer in enumerate(peers):
            assert (await peer.reply("opened")).token == greedy([*SYSTEM, number], 1)[0]
        again = await peers[0].open(2, [*SYSTEM, 9])
        assert again.token == greedy([*SYSTEM, 9], 1)[0]
    assert total(cell, "goodspeed_verifier_prompt_tokens_total", source="shared") == 4 * len(SYSTEM)
    assert total(cell, "goodspeed_verifier_prompt_tokens_total", source="computed") == len(SYSTEM) + 5


@pytest.mark.parametrize(("sharing", "shared"), [("tenant", 0), ("cell", 1), ("off", 0)])
async def test_tenants_share_no_beginnings_unless_the_cell_does(make_cell, sharing, shared):
    text = [(11 * n + len(sharing)) % 250 for n in range(100)]
    cell = await make_cell(prefix_sharing=sharing, tenants=(("a", 1.0), ("b", 1.0)))
    async with cell.peer() as peer:
        for key, tenant in enumerate(("a", "b", ""), 1):
            await peer.open(key, text, tenant=tenant)
    assert total(cell, "goodspeed_verifier_prompt_tokens_total", source="shared") == shared * 2 * 99


async def test_a_sequence_that_comes_back_is_not_computed_again(make_cell, greedy):
    cell = await make_cell()
    text = [(13 * n) % 250 for n in range(90)]
    truth = greedy(text, 30)
    async with cell.peer() as peer:
        assert await peer.generate(1, text, 20) == truth[:20]
    async with cell.peer() as peer:
        before = total(cell, "goodspeed_verifier_prompt_tokens_total", source="shared")
        opened = await peer.open(1, [*text, *truth[:20]], prompt_tokens=len(text))
        assert opened.token == truth[20]
        assert total(cell, "goodspeed_verifier_prompt_tokens_total", source="shared") - before == 109
