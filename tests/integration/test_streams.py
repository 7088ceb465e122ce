"""Streams that end, by whoever's doing: slots come free, series go, and the rest of the cell goes on."""

import asyncio
import signal

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from peers import Peer, opening, until

from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import PROTOCOL_VERSION
from goodspeed_runtime.verifier.server import SERVICE
from processes import GRPC_PORT

PROMPT = [104, 101, 108, 108, 111]


async def test_a_stream_that_breaks_frees_its_slots_and_leaves_others_alone(cell, greedy):
    async with cell.peer("stays") as stays:
        other = asyncio.create_task(stays.generate(1, PROMPT, 60))
        async with cell.peer("breaks") as breaks:
            for key in range(1, 4):
                await breaks.open(key, PROMPT)
            await breaks.send(opens=[opening(4, PROMPT * 80)])
            breaks.call.cancel()
        await until(lambda: cell.slots_used() <= 1)
        assert await other == greedy(PROMPT, 60)


async def test_a_drafter_that_says_it_is_done_is_let_go(cell):
    async with cell.peer() as peer:
        await peer.open(1, PROMPT)
        await peer.call.done_writing()
        assert await peer.read() is grpc.aio.EOF
        assert await peer.call.code() == grpc.StatusCode.OK
        await until(lambda: cell.slots_used() == 0)


async def test_a_sequence_closed_while_its_prompt_is_read_or_its_draft_waits_frees_its_slot(make_cell):
    cell = await make_cell(prefill_chunk_tokens=8)
    async with cell.peer() as peer:
        opened = await peer.open(1, PROMPT)
        cell.gate.clear()
        await peer.send(opens=[opening(2, PROMPT * 60)])
        await until(cell.waits_at_gate.is_set)
        await peer.draft(1, opened.position + 1, [65])
        await peer.send(closes=[pb.Close(sequence=1), pb.Close(sequence=2)])
        await until(lambda: cell.engine.backlog == 3)
        cell.gate.set()
        await until(lambda: cell.slots_used() == 0)
        assert len(cell.passes) < 60 * 5 / 8


async def test_a_drafters_series_are_there_from_its_welcome_and_gone_with_its_stream(cell, greedy):
    def drafters(name: str) -> set[str]:
        return {series.labels["drafter"] for series in cell.series(name)}

    async with cell.peer("first", pool="a") as first:
        async with cell.peer("second", pool="b") as second:
            await until(lambda: drafters("goodspeed_spec_decode_drafts_total") == {"first", "second"})
            opened = await second.open(1, PROMPT)
            await second.draft(1, opened.position + 1, greedy(PROMPT, 3)[1:])
            assert (await second.reply("verdict")).accepted == 2
            await until(lambda: cell.series("goodspeed_spec_decode_accepted_tokens_per_pos_total"))
        await until(lambda: not any(s.labels.get("drafter") == "second" for s in cell.series("")))
        assert any(s.labels.get("drafter") == "first" for s in cell.series(""))
        await first.open(1, PROMPT)
    await until(lambda: not any("drafter" in s.labels for s in cell.series("")))


async def test_what_is_counted_is_what_was_answered(cell, greedy):
    truth = greedy(PROMPT, 9)
    async with cell.peer("counted") as peer:
        opened = await peer.open(1, PROMPT, max_tokens=9)
        place, granted = opened.position + 1, [opened.grant]
        for guess in ([truth[1], truth[2], (truth[3] + 1) % 256], [], truth[5:7]):
            await peer.draft(1, place, guess)
            verdict = await peer.reply("verdict")
            place += verdict.accepted + 1
            granted.append(verdict.grant)
        # There is room for one token more: nothing is worth drafting, and the verifier goes on alone.
        assert (await peer.reply("verdict")).finish == pb.FINISH_LENGTH
        assert granted[-1] == 0

        def totals():
            names = ("drafts", "draft_tokens", "accepted_tokens", "emitted_tokens", "first_tokens", "rounds",
                     "granted_tokens", "expected_accepted_tokens", "plain_tokens")  # fmt: skip
            return [cell.series(f"goodspeed_spec_decode_{name}_total")[0].value for name in names]

        await until(lambda: totals()[3] == 9)
        assert totals() == [3, 5, 4, 9, 1, 3, sum(granted), 4, 1]
        positions = {
            s.labels["position"]: s.value
            for s in cell.series("goodspeed_spec_decode_accepted_tokens_per_pos_total")
        }
        assert positions == {"0": 2, "1": 2}


async def test_a_stream_without_hello_is_given_up(cell, monkeypatch):
    monkeypatch.setattr("goodspeed_runtime.verifier.session.HELLO_SECONDS", 0.2)
    async with cell.channel() as channel:
        peer = Peer(channel)
        frame = await peer.read()
        assert frame.errors[0].code == pb.MALFORMED
        assert "no hello" in frame.errors[0].message


async def test_health_and_reflection_answer_any_grpc_client(cell):
    async with cell.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        async for reply in stub.ServerReflectionInfo(iter([asked])):
            assert SERVICE in {service.name for service in reply.list_services_response.service}


async def test_draining_tells_every_drafter_takes_no_new_one_and_waits_for_those_that_are_leaving(cell):
    async with cell.peer("leaves") as leaves, cell.channel() as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        await leaves.open(1, PROMPT)
        draining = asyncio.create_task(cell.server.drain(60))
        frame = await leaves.read()
        assert frame.HasField("drain")
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        late = Peer(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:  # noqa: PT012 - either may notice first
            await late.send(hello=cell.hello("late"))
            await late.read()
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not draining.done()
        await leaves.call.done_writing()
        await draining
    assert cell.slots_used() == 0


@pytest.mark.processes
async def test_sigterm_drains_a_verifier_and_it_exits_0(own, tokenizer):
    server = own.verifier(drain_seconds=30)
    await asyncio.to_thread(own.wait)
    assert server.get("/healthz").text == "ok\n"
    async with grpc.aio.insecure_channel(f"{server.address}:{GRPC_PORT}") as channel:
        peer = Peer(channel)
        hello = pb.Hello(
            protocol_version=PROTOCOL_VERSION,
            drafter="peer",
            tokenizer_fingerprint=tokenizer.fingerprint,
            vocabulary_size=tokenizer.vocabulary_size,
            weight=1,
        )
        await peer.send(hello=hello)
        assert (await peer.read()).HasField("welcome")
        await peer.open(1, PROMPT)
        server.process.send_signal(signal.SIGTERM)
        while not (frame := await peer.read()).HasField("drain"):
            assert frame.verdicts, frame
        assert frame.drain.reason == "shutting down"
        assert server.get("/readyz").status_code == 503
        assert server.process.poll() is None
        peer.call.cancel()
        assert await asyncio.to_thread(server.process.wait, 60) == 0
