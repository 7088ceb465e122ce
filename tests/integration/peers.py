"""A verifier in this process behind a real gRPC server, and peers that say to it whatever a test wants."""

import asyncio
import contextlib
import threading
import time

import grpc

from goodspeed_runtime.metrics import VerifierMetrics
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.generated import speculation_pb2_grpc as pb_grpc
from goodspeed_runtime.protocol.wire import PROTOCOL_VERSION, DraftBlock, pack_draft, pack_tokens
from goodspeed_runtime.verifier.engine import Engine
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.server import SpeculationServer
from goodspeed_runtime.verifier.settings import VerifierSettings

SECONDS = 60


async def until(condition):
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.01)


class Peer:
    """A drafter's end of one stream, with no manners of its own."""

    def __init__(self, channel):
        self.call = pb_grpc.SpeculationStub(channel).Speculate()
        self._frames = []
        self.round_us = 0

    async def send(self, **parts):
        await self.call.write(pb.DrafterFrame(**parts))

    async def read(self):
        async with asyncio.timeout(SECONDS):
            return await self.call.read()

    async def reply(self, kind):
        """The next opened, verdict or error, whatever frame it comes in; it must be of that kind.

        Verdicts of sequences that go on alone, for want of a grant, are passed over by who waits for another.
        """
        while True:
            # What came after the wanted one, in the same frame maybe, is kept for who asks next.
            while self._frames and kind != "verdict" and self._frames[0][0] == "verdict":
                self._frames.pop(0)
            if self._frames:
                break
            frame = await self.read()
            assert frame is not grpc.aio.EOF, "the stream has ended"
            self.round_us = frame.round_us
            self._frames += [
                (name, part)
                for name, parts in (
                    ("opened", frame.opened),
                    ("verdict", frame.verdicts),
                    ("error", frame.errors),
                )
                for part in parts
            ]
        name, part = self._frames.pop(0)
        assert name == kind, f"{name}: {part}"
        return part

    async def open(self, sequence, tokens, /, **fields):
        await self.send(opens=[opening(sequence, tokens, **fields)])
        return await self.reply("opened")

    async def draft(self, sequence, position, tokens, held=0.0):
        await self.send(drafts=[drafting(sequence, position, tokens, held_us=round(1e6 * held))])

    async def generate(self, sequence, prompt, count, **fields):
        """Plain decoding, by drafts of no tokens where drafts are awaited, to the end."""
        reply = await self.open(sequence, prompt, max_tokens=count, **fields)
        answer = [reply.token]
        while len(answer) < count:
            if reply.grant:
                await self.draft(sequence, len(prompt) + len(answer), [])
            reply = await self.reply("verdict")
            answer.append(reply.next_token)
        return answer


def opening(sequence, tokens, /, **fields):
    defaults = {"prompt_tokens": len(tokens), "max_tokens": 100, "sampling": pb.Sampling(top_p=1)}
    return pb.Open(sequence=sequence, **({"tokens": pack_tokens(tokens)} | defaults | fields))


def drafting(sequence, position, tokens, /, **fields):
    packed, sizes, ids, weights = pack_draft(DraftBlock.point_masses(tokens))
    parts = {"tokens": packed, "support_sizes": sizes, "support_ids": ids, "support_weights": weights}
    return pb.Draft(sequence=sequence, position=position, **(parts | fields))


class Cell:
    """A verifier of the tiny model, with a gate before its passes.

    Attributes:
        passes: per pass, the numbers of tokens fed for its sequences.
        pass_seconds: that each pass takes longer than the model needs.
    """

    def __init__(self, model, target, *, admission=None, pass_seconds=0.0, **settings):
        self.settings = VerifierSettings(name="cell", max_context_tokens=512, **settings)
        self.metrics = VerifierMetrics()
        self.model = model
        ledger = Ledger(self.metrics, self.settings)
        self.engine = Engine(model, self.settings, ledger, admission)
        self.server = SpeculationServer(self.engine, ledger, self.settings, target)
        self.target = target
        self.passes = []
        self.pass_seconds = pass_seconds
        self.gate = threading.Event()
        self.gate.set()
        self.waits_at_gate = threading.Event()
        self.address = ""
        self._forward = model.forward
        model.forward = self._pass

    def _pass(self, segments):
        if not self.gate.is_set():
            self.waits_at_gate.set()
            assert self.gate.wait(SECONDS)
            self.waits_at_gate.clear()
        self.passes.append([len(segment.tokens) for segment in segments])
        time.sleep(self.pass_seconds)
        return self._forward(segments)

    @contextlib.asynccontextmanager
    async def serving(self, host):
        self.engine.start()
        self.address = f"{host}:{await self.server.start(f'{host}:0')}"
        try:
            yield self
        finally:
            self.gate.set()
            await self.server.drain(0)
            await until(lambda: self.slots_used() == 0)
            self.engine.stop(SECONDS)
            self.model.forward = self._forward

    @contextlib.asynccontextmanager
    async def channel(self):
        # Without probes for bandwidth a stream's window stays small: who does not read is noticed sooner.
        async with grpc.aio.insecure_channel(self.address, options=[("grpc.http2.bdp_probe", 0)]) as channel:
            yield channel

    def hello(self, name="peer", **fields):
        defaults = {
            "protocol_version": PROTOCOL_VERSION,
            "drafter": name,
            "pool": "pool",
            "draft_model": "test://peer",
            "model_fingerprint": "draft",
            "tokenizer_fingerprint": self.target.tokenizer_fingerprint,
            "vocabulary_size": self.target.vocabulary_size,
            "max_draft_tokens": 8,
            "weight": 1,
        }
        return pb.Hello(**(defaults | fields))

    @contextlib.asynccontextmanager
    async def peer(self, name="peer", **fields):
        """A peer that has been welcomed."""
        async with self.channel() as channel:
            peer = Peer(channel)
            await peer.send(hello=self.hello(name, **fields))
            frame = await peer.read()
            assert frame.HasField("welcome"), frame
            peer.welcome = frame.welcome
            yield peer
            peer.call.cancel()

    def slots_used(self):
        return self.model.cache.slots - self.model.cache.free_slots

    def series(self, name):
        """The labelled samples of a metric whose name begins so."""
        return [
            sample
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name.startswith(name)
        ]
