"""Bad peers over real gRPC: a typed error that names the field, and nobody else is hurt."""

import asyncio

import grpc
import numpy as np
import pytest
from peers import Peer, drafting, opening, until

from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import pack_tokens

PROMPT = [104, 101, 108, 108, 111]
NEXT = len(PROMPT) + 1
VOCABULARY = 257


def u16(*values):
    return np.array(values, dtype="<u2").tobytes()


def supported(sizes, ids, weights, tokens=(65,)):
    return drafting(
        1, NEXT, tokens, support_sizes=u16(*sizes), support_ids=pack_tokens(ids), support_weights=weights
    )


BAD_HELLOS = {
    "another vocabulary": (
        {"vocabulary_size": 300, "tokenizer_fingerprint": "theirs", "draft_model": "hf://some/alien"},
        pb.VOCABULARY_MISMATCH,
        ["hf://some/alien", "300 ids", "theirs", f"{VOCABULARY} ids", "test"],
    ),
    "a tokenizer of the same size": (
        {"tokenizer_fingerprint": "theirs"},
        pb.VOCABULARY_MISMATCH,
        ["theirs", f"{VOCABULARY} ids"],
    ),
    "another version": ({"protocol_version": 1}, pb.PROTOCOL_VERSION_UNSUPPORTED, ["version 1", "2"]),
    "no name": ({"drafter": ""}, pb.MALFORMED, ["hello.drafter"]),
    "a weight of NaN": ({"weight": float("nan")}, pb.MALFORMED, ["hello.weight"]),
    "no weight": ({"weight": 0}, pb.MALFORMED, ["hello.weight"]),
    "a weight beyond reason": ({"weight": 1e300}, pb.MALFORMED, ["hello.weight"]),
    "a weight too small to count": ({"weight": 5e-324}, pb.MALFORMED, ["hello.weight"]),
}


@pytest.mark.parametrize("case", BAD_HELLOS)
async def test_a_hello_that_cannot_be_is_refused_by_name(cell, case):
    fields, code, words = BAD_HELLOS[case]
    async with cell.channel() as channel:
        peer = Peer(channel)
        await peer.send(hello=cell.hello(**fields))
        error = (await peer.read()).errors[0]
        assert (error.sequence, error.code) == (0, code)
        assert all(word in error.message for word in words if word != "test"), error.message
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await peer.read()
        assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert raised.value.details() == error.message
    assert cell.series("goodspeed_drafter_") == []


async def test_the_first_frame_must_be_a_hello(cell):
    async with cell.channel() as channel:
        peer = Peer(channel)
        await peer.send(opens=[opening(1, PROMPT)])
        error = (await peer.read()).errors[0]
        assert (error.code, "hello" in error.message) == (pb.MALFORMED, True)


async def test_a_second_stream_of_the_same_name_waits_for_the_first_to_end(cell):
    async with cell.channel() as channel:
        async with cell.peer("twin"):
            peer = Peer(channel)
            await peer.send(hello=cell.hello("twin"))
            error = (await peer.read()).errors[0]
            assert error.code == pb.OVERLOADED
            assert "'twin'" in error.message
        await until(lambda: cell.series("goodspeed_drafter_grant") == [])
        async with cell.peer("twin"):
            pass


BAD_OPENS = {
    "no tokens": (opening(1, [], prompt_tokens=1), pb.MALFORMED, "prompt_tokens"),
    "no prompt": (opening(1, PROMPT, prompt_tokens=0), pb.MALFORMED, "prompt_tokens"),
    "half a token": (opening(1, PROMPT, tokens=b"abcd"), pb.MALFORMED, "tokens"),
    "half a stop token": (opening(1, PROMPT, stop_tokens=b"abcd"), pb.MALFORMED, "tokens"),
    "too many stop tokens": (opening(1, PROMPT, stop_tokens=bytes(3 << 16)), pb.MALFORMED, "stop_tokens"),
    "a token outside the vocabulary": (opening(1, [1, VOCABULARY]), pb.INVALID_TOKEN, f"{VOCABULARY}"),
    "a prompt too long": (opening(1, [1] * 512), pb.PROMPT_TOO_LONG, "512"),
    "nothing to generate": (opening(1, PROMPT, max_tokens=0), pb.MALFORMED, "max_tokens"),
    "more committed than wanted": (
        opening(1, PROMPT, prompt_tokens=2, max_tokens=3),
        pb.MALFORMED,
        "max_tokens",
    ),
    **{
        f"{name} of {value}": (
            opening(1, PROMPT, sampling=pb.Sampling(**({"top_p": 1} | {name: value}))),
            pb.INVALID_SAMPLING,
            name,
        )
        for name, value in (
            ("temperature", -1),
            ("temperature", float("nan")),
            ("temperature", float("inf")),
            ("top_p", 0),
            ("top_p", 1.5),
            ("top_p", float("nan")),
        )
    },
}


@pytest.mark.parametrize("case", BAD_OPENS)
async def test_a_sequence_that_cannot_be_opened_gets_a_typed_error(cell, greedy, case):
    message, code, word = BAD_OPENS[case]
    async with cell.peer() as peer:
        await peer.send(opens=[message])
        error = await peer.reply("error")
        assert (error.sequence, error.code) == (1, code)
        assert word in error.message
        assert await peer.generate(1, PROMPT, 5) == greedy(PROMPT, 5)


BAD_DRAFTS = {
    "a token outside the vocabulary": (drafting(1, NEXT, [VOCABULARY]), pb.INVALID_TOKEN, "draft.tokens"),
    "q outside the vocabulary": (
        supported([2], [65, VOCABULARY], u16(3, 4)),
        pb.INVALID_TOKEN,
        "draft.support_ids",
    ),
    # Weights are integers: NaN and negative numbers have no bytes, and q is normalised by its sum.
    "a probability of zero": (supported([2], [65, 66], u16(3, 0)), pb.INVALID_DISTRIBUTION, "zero"),
    "floats for weights": (
        supported([2], [65, 66], np.array([np.nan, -1], "<f4").tobytes()),
        pb.INVALID_DISTRIBUTION,
        "support_weights",
    ),
    "weights missing": (supported([2], [65, 66], u16(3)), pb.INVALID_DISTRIBUTION, "support_weights"),
    "sizes missing": (
        supported([], [65, 66], u16(3, 4)),
        pb.INVALID_DISTRIBUTION,
        "support_sizes",
    ),
    "an id twice in q": (supported([2], [65, 65], u16(3, 4)), pb.INVALID_DISTRIBUTION, "twice"),
    "a token that q cannot give": (supported([2], [66, 67], u16(3, 4)), pb.INVALID_DISTRIBUTION, "outside"),
    "half a token": (drafting(1, NEXT, [], tokens=b"ab"), pb.MALFORMED, "tokens"),
    "more tokens than granted": (drafting(1, NEXT, [65] * 9), pb.OVER_GRANT, "grant"),
    "far more tokens than anyone is granted": (drafting(1, NEXT, [65] * 100_000), pb.OVER_GRANT, "100000"),
    "another position": (drafting(1, NEXT + 1, []), pb.WRONG_POSITION, f"{NEXT}"),
    "an earlier position": (drafting(1, 0, []), pb.WRONG_POSITION, f"{NEXT}"),
    "a sequence that is open already": (opening(1, PROMPT), pb.DUPLICATE_SEQUENCE, "open already"),
}


@pytest.mark.parametrize("case", BAD_DRAFTS)
async def test_a_bad_draft_ends_its_own_sequence_with_a_typed_error_and_hurts_no_other(cell, greedy, case):
    message, code, word = BAD_DRAFTS[case]
    async with cell.peer("bad") as bad, cell.peer("good") as good:
        other = asyncio.create_task(good.generate(1, PROMPT, 40))
        sibling = await bad.open(2, PROMPT)
        await bad.open(1, PROMPT)
        await bad.send(**{"opens" if isinstance(message, pb.Open) else "drafts": [message]})
        error = await bad.reply("error")
        assert (error.sequence, error.code) == (1, code), error.message
        assert word in error.message
        await until(lambda: cell.slots_used() == 1 + (not other.done()))
        await bad.draft(2, sibling.position + 1, [])
        assert (await bad.reply("verdict")).next_token == greedy(PROMPT, 2)[1]
        assert await bad.generate(1, PROMPT, 3) == greedy(PROMPT, 3)
        assert await other == greedy(PROMPT, 40)
        assert [s.value for s in cell.series("goodspeed_verifier_errors_total")] == [1]


async def test_a_draft_for_an_unknown_sequence_gets_a_typed_error(cell):
    async with cell.peer() as peer:
        await peer.draft(9, 4, [])
        error = await peer.reply("error")
        assert (error.sequence, error.code) == (9, pb.UNKNOWN_SEQUENCE)


async def test_two_drafts_for_one_sequence_at_once_are_one_too_many(cell):
    async with cell.peer() as peer:
        await peer.open(1, PROMPT)
        await peer.send(drafts=[drafting(1, NEXT, []), drafting(1, NEXT, [])])
        error = await peer.reply("error")
        assert (error.sequence, error.code) == (1, pb.WRONG_POSITION)
        assert "waits already" in error.message


@pytest.mark.parametrize("part", ["opens", "drafts"])
async def test_sequence_0_is_the_stream_itself_and_using_it_ends_the_stream(cell, part):
    message = opening(0, PROMPT) if part == "opens" else drafting(0, 4, [])
    async with cell.peer() as peer:
        await peer.open(1, PROMPT)
        await peer.send(**{part: [message]})
        error = await peer.reply("error")
        assert (error.sequence, error.code) == (0, pb.MALFORMED)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await peer.read()
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        await until(lambda: cell.slots_used() == 0)


async def test_an_oversized_message_ends_its_stream_alone(cell, greedy):
    async with cell.peer("huge") as huge, cell.peer("good") as good:
        other = asyncio.create_task(good.generate(1, PROMPT, 40))
        await huge.open(1, PROMPT)
        with pytest.raises(grpc.aio.AioRpcError) as raised:  # noqa: PT012 - either end may notice first
            await huge.send(opens=[opening(2, PROMPT, tokens=bytes(17 << 20))])
            await huge.read()
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await other == greedy(PROMPT, 40)
        await until(lambda: cell.slots_used() == 0)


async def test_more_waiting_sequences_than_allowed_are_told_to_come_later_and_take_no_places_of_others(
    make_cell, greedy
):
    cell = await make_cell(max_waiting=2)
    async with cell.peer("many") as many, cell.peer("good") as good:
        for key in range(1, 9):
            await many.open(key, PROMPT)
        await many.send(opens=[opening(key, PROMPT) for key in range(9, 13)])
        errors = [await many.reply("error") for _ in range(2)]
        assert [(error.sequence, error.code) for error in errors] == [
            (11, pb.OVERLOADED),
            (12, pb.OVERLOADED),
        ]
        other = asyncio.create_task(good.generate(1, PROMPT, 10))
        await until(lambda: sum(s.value for s in cell.series("goodspeed_drafter_queue_length")) == 3)
        await many.send(closes=[pb.Close(sequence=1)])
        assert await other == greedy(PROMPT, 10)


async def test_a_peer_that_floods_is_read_no_faster_than_rounds_go(cell, greedy):
    """While a pass is under way the verifier stops reading, and gRPC's flow control stops the peer."""
    async with cell.peer("flood") as flood, cell.peer("good") as good:
        opened = await good.open(1, PROMPT)
        cell.gate.clear()
        await good.draft(1, opened.position + 1, [])
        await until(cell.waits_at_gate.is_set)

        async def pour():
            while True:
                await flood.send(drafts=[drafting(9, 4, [65] * 8)] * 200)

        pouring = asyncio.create_task(pour())
        await asyncio.sleep(1)
        most = cell.engine.backlog
        await asyncio.sleep(0.5)
        assert cell.engine.backlog == most < 5000
        cell.gate.set()
        assert (await good.reply("verdict")).next_token == greedy(PROMPT, 2)[1]
        pouring.cancel()


async def test_a_peer_that_does_not_read_is_cut_off(cell, greedy):
    async with cell.peer("deaf") as deaf, cell.peer("good") as good:

        async def pour():
            while True:
                await deaf.send(drafts=[drafting(9, 4, [65] * 20)] * 500)

        await deaf.open(1, PROMPT)
        pouring = asyncio.create_task(pour())
        await until(lambda: cell.slots_used() == 0)
        assert await good.generate(1, PROMPT, 5) == greedy(PROMPT, 5)
        await until(lambda: cell.server.drafters == 1)
        pouring.cancel()
