"""The link against a real gRPC server that comes, goes and refuses."""

import asyncio
import contextlib
import time

import grpc
import pytest

from goodspeed_runtime.drafter.link import OUTBOX_FRAMES, Link, ViolationError
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.generated import speculation_pb2_grpc as pb_grpc

HELLO = pb.Hello(protocol_version=1, drafter="d", vocabulary_size=9, weight=1.0)


class Verifier(pb_grpc.SpeculationServicer):
    """Welcomes or refuses, keeps every frame it gets, and can be stopped and started on its port."""

    def __init__(self):
        self.port = 0
        self.frames = []
        self.hellos = 0
        self.error = None
        self.verification = pb.REJECTION
        self.drops = False
        self.frame = asyncio.Event()
        self.outgoing = None

    async def Speculate(self, _, context):  # noqa: N802 - gRPC's name
        await context.read()
        self.hellos += 1
        if self.error is not None:
            await context.write(pb.VerifierFrame(errors=[self.error]))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.error.message)
        welcome = pb.Welcome(verifier="v", max_context_tokens=64, verification=self.verification)
        await context.write(pb.VerifierFrame(welcome=welcome))
        if self.drops:
            return
        self.outgoing = context
        while (frame := await context.read()) is not grpc.aio.EOF:
            self.frames.append(frame)
            self.frame.set()

    async def start(self):
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 16 << 20)]
        self._server = grpc.aio.server(options=options)
        pb_grpc.add_SpeculationServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self):
        await self._server.stop(0)


class Owner:
    """What the link tells its owner."""

    def __init__(self):
        self.ups = 0
        self.downs = 0
        self.frames = []
        self.violation = None

    def up(self, _):
        self.ups += 1

    def down(self, _):
        self.downs += 1

    def received(self, frame):
        self.frames.append(frame)
        if self.violation is not None:
            raise self.violation


async def eventually(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        await asyncio.sleep(0.01)


@pytest.fixture
async def verifier():
    server = Verifier()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def owner():
    return Owner()


@pytest.fixture
async def link(verifier, owner):
    link = Link([f"127.0.0.1:{verifier.port}"], HELLO, up=owner.up, down=owner.down, received=owner.received)
    task = asyncio.create_task(link.run())
    yield link
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_verifier_that_is_killed_and_restarted_is_found_again(verifier, link, owner):
    for round_ in range(1, 4):
        await eventually(lambda count=round_: owner.ups == count)
        assert link.connected
        await verifier.stop()
        await eventually(lambda count=round_: owner.downs == count)
        assert not link.connected
        await verifier.start()


async def test_frames_of_one_moment_travel_as_one(verifier, link, owner):
    await eventually(lambda: owner.ups)
    for key in range(1, 6):
        link.send(pb.DrafterFrame(drafts=[pb.Draft(sequence=key)]))
    await eventually(lambda: verifier.frames)
    assert [draft.sequence for draft in verifier.frames[0].drafts] == [1, 2, 3, 4, 5]


async def test_a_close_never_travels_in_one_frame_with_what_it_ends(verifier, link, owner):
    await eventually(lambda: owner.ups)
    link.send(pb.DrafterFrame(opens=[pb.Open(sequence=1)]))
    link.send(pb.DrafterFrame(closes=[pb.Close(sequence=1)]))
    link.send(pb.DrafterFrame(opens=[pb.Open(sequence=2)]))
    await eventually(lambda: sum(len(f.opens) for f in verifier.frames) == 2)
    opened = set()
    for frame in verifier.frames:
        opened -= {close.sequence for close in frame.closes}
        opened |= {message.sequence for message in frame.opens}
    assert opened == {2}


async def test_what_is_sent_while_nobody_is_there_is_dropped_not_kept(verifier, link, owner):
    await eventually(lambda: owner.ups == 1)
    await verifier.stop()
    await eventually(lambda: owner.downs == 1)
    link.send(pb.DrafterFrame(drafts=[pb.Draft(sequence=1)]))
    await verifier.start()
    await eventually(lambda: owner.ups == 2)
    link.send(pb.DrafterFrame(drafts=[pb.Draft(sequence=2)]))
    await eventually(lambda: verifier.frames)
    assert [draft.sequence for frame in verifier.frames for draft in frame.drafts] == [2]


async def test_a_drain_makes_it_leave_and_come_again(verifier, link, owner):
    await eventually(lambda: verifier.outgoing is not None)
    await verifier.outgoing.write(pb.VerifierFrame(drain=pb.Drain(reason="rollout")))
    await eventually(lambda: owner.ups == 2)
    assert owner.downs == 1


async def test_a_refusal_is_kept_in_the_verifiers_words_and_counted_until_a_welcome(verifier, link, owner):
    await eventually(lambda: owner.ups == 1)
    verifier.error = pb.Error(code=pb.VOCABULARY_MISMATCH, message="9 ids here, 7 ids there")
    await verifier.stop()
    await verifier.start()
    await eventually(lambda: link.refusals >= 2)
    assert link.refusal == "9 ids here, 7 ids there"
    verifier.error = None
    await eventually(lambda: owner.ups == 2)
    assert (link.refusal, link.refusals) == ("", 0)


async def test_retries_back_off_instead_of_hammering(verifier, link, owner):
    await eventually(lambda: owner.ups == 1)
    verifier.error = pb.Error(code=pb.OVERLOADED, message="full")
    await verifier.stop()
    await verifier.start()
    before = verifier.hellos
    await asyncio.sleep(1.5)
    assert 1 <= verifier.hellos - before <= 6


async def test_one_that_welcomes_and_drops_us_is_not_hammered_either(verifier, link, owner):
    verifier.drops = True
    await eventually(lambda: owner.ups == 1)
    await verifier.stop()
    await verifier.start()
    before = verifier.hellos
    await asyncio.sleep(1.5)
    assert 1 <= verifier.hellos - before <= 6


async def test_a_verifier_of_another_verification_is_refused_in_words(verifier, link, owner):
    await eventually(lambda: owner.ups == 1)
    verifier.verification = pb.COUPLED
    await verifier.stop()
    await verifier.start()
    await eventually(lambda: link.refusals)
    assert "--verification" in link.refusal
    assert not link.connected


async def test_a_frame_that_makes_no_sense_ends_the_stream_and_a_new_one_is_made(verifier, link, owner):
    await eventually(lambda: verifier.outgoing is not None)
    owner.violation = ViolationError("9 of 2 drafted tokens accepted")
    await verifier.outgoing.write(pb.VerifierFrame(verdicts=[pb.Verdict(accepted=9)]))
    await eventually(lambda: owner.ups == 2)
    assert owner.downs == 1


async def test_many_long_prompts_at_once_travel_in_frames_that_a_verifier_takes(verifier, link, owner):
    await eventually(lambda: owner.ups == 1)
    for key in range(1, 41):
        link.send(pb.DrafterFrame(opens=[pb.Open(sequence=key, tokens=bytes(1 << 20))]))
    await eventually(lambda: sum(len(frame.opens) for frame in verifier.frames) == 40)
    assert owner.ups == 1


async def test_a_verifier_that_reads_nothing_is_left_before_memory_runs_out(verifier, link, owner):
    await eventually(lambda: owner.ups == 1)
    for key in range(OUTBOX_FRAMES + 2):
        link.send(pb.DrafterFrame(closes=[pb.Close(sequence=key)]))
    await eventually(lambda: owner.downs == 1)
    await eventually(lambda: owner.ups == 2)
