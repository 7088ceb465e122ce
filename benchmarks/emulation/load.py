"""Many drafters at once, as cheap as they can be: what a verifier's own work costs beside the target's.

The verifier runs in a process of its own, with a synthetic target that costs nothing, and the CPU seconds of
that whole process are counted: gRPC, checking, scheduling, the synthetic passes and their verification,
metrics. The drafters, in other processes, answer every grant at once from prepared bytes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import threading
import time
import tracemalloc
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import grpc
import numpy as np

from emulation.cell import HOST, Cell
from emulation.synthetic import PERIOD, TRUTH, VOCABULARY, Cost, SyntheticTarget
from goodspeed_runtime.decoding.verification import verify
from goodspeed_runtime.metrics import VerifierMetrics
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.generated import speculation_pb2_grpc as pb_grpc
from goodspeed_runtime.protocol.wire import PROTOCOL_VERSION, TOKEN_BYTES, pack_tokens
from goodspeed_runtime.verifier.engine import Engine
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.messages import check_open
from goodspeed_runtime.verifier.sequence import Account, Client
from goodspeed_runtime.verifier.settings import VerifierSettings

CONTEXT = 1 << 20
ACCEPTANCE = 0.8
WARM_UP_TOKENS = 100


def _verifier(pipe: Connection, settings: VerifierSettings) -> None:
    async def serve() -> None:
        model = SyntheticTarget(settings.max_sequences, Cost())
        cell = Cell(model, settings)
        judging = _Timed(verify)
        cell.engine._verify = judging
        async with cell.serving():
            pipe.send(cell.port)
            loop = asyncio.get_running_loop()
            while await loop.run_in_executor(None, pipe.recv):
                usage = resource.getrusage(resource.RUSAGE_SELF)
                pipe.send(
                    (
                        time.monotonic(),
                        usage.ru_utime + usage.ru_stime,
                        model.seconds + judging.seconds,
                        cell.total("goodspeed_spec_decode_emitted_tokens_total"),
                        cell.total("goodspeed_verifier_round_tokens_count"),
                        cell.total("goodspeed_verifier_round_tokens_sum"),
                    )
                )

    asyncio.run(serve())


class _Timed:
    """A function that counts the CPU time spent in it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *positional: Any) -> Any:
        started = time.thread_time()
        result = self._function(*positional)
        self.seconds += time.thread_time() - started
        return result


class _Drafter:
    """A stream that answers every grant from prepared bytes."""

    def __init__(self, number: int, sequences: int) -> None:
        self._number = number
        self._sequences = sequences
        coin = np.random.default_rng(number).random(TRUTH.shape) < ACCEPTANCE
        guesses = np.where(coin, TRUTH, (TRUTH + 1) % VOCABULARY)
        # Twice, so that a draft across the period's end is one slice.
        self._packed = [pack_tokens(np.tile(row, 2)) for row in guesses]

    async def run(self, address: str) -> None:
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as ch:
            call: Any = pb_grpc.SpeculationStub(ch).Speculate()
            await call.write(
                pb.DrafterFrame(
                    hello=pb.Hello(
                        protocol_version=PROTOCOL_VERSION,
                        drafter=f"load-{self._number}",
                        pool="load",
                        tokenizer_fingerprint="synthetic",
                        vocabulary_size=VOCABULARY,
                        max_draft_tokens=16,
                        weight=1,
                    )
                )
            )
            await call.read()
            opens = [
                pb.Open(
                    sequence=key,
                    tokens=pack_tokens([key - 1, 0]),
                    prompt_tokens=2,
                    max_tokens=CONTEXT,
                    sampling=pb.Sampling(top_p=1),
                )
                for key in range(1, self._sequences + 1)
            ]
            await call.write(pb.DrafterFrame(opens=opens))
            while (frame := await call.read()) is not grpc.aio.EOF:
                if frame.errors:
                    raise RuntimeError(frame.errors[0].message)
                drafts = [
                    self._draft(each.sequence, each.position + 1, each.grant)
                    for each in frame.opened
                    if each.grant
                ]
                drafts += [
                    self._draft(
                        each.sequence, each.position + each.accepted + each.has_next_token, each.grant
                    )
                    for each in frame.verdicts
                    if not each.draft_awaited and each.grant
                ]
                if drafts:
                    await call.write(pb.DrafterFrame(drafts=drafts))

    def _draft(self, key: int, position: int, grant: int) -> pb.Draft:
        start = TOKEN_BYTES * (position % PERIOD)
        tokens = self._packed[key - 1][start : start + TOKEN_BYTES * grant]
        return pb.Draft(sequence=key, position=position, tokens=tokens, held_us=1)


def _drafters(address: str, numbers: list[int], sequences: int) -> None:
    async def run() -> None:
        await asyncio.gather(*(_Drafter(number, sequences).run(address) for number in numbers))

    asyncio.run(run())


def measure(
    drafters: int, sequences: int, budget: int, *, seconds: float, processes: int = 2
) -> dict[str, float]:
    """Runs verifier and drafters for so long after a warm-up; CPU time is per committed token."""
    settings = VerifierSettings(
        name="load",
        budget_tokens=budget,
        max_sequences=drafters * sequences,
        max_context_tokens=CONTEXT,
    )
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe()
    verifier = context.Process(target=_verifier, args=(end, settings), daemon=True)
    verifier.start()
    address = f"{HOST}:{pipe.recv()}"
    loads = [
        context.Process(
            target=_drafters, args=(address, list(range(drafters))[start::processes], sequences), daemon=True
        )
        for start in range(processes)
    ]
    for load in loads:
        load.start()
    try:
        # Until every drafter is there and has long been given more than its first tokens.
        while _ask(pipe)[3] < WARM_UP_TOKENS * drafters * sequences:
            time.sleep(0.2)
        before = _ask(pipe)
        time.sleep(seconds)
        after = _ask(pipe)
    finally:
        for process in [*loads, verifier]:
            process.terminate()
            process.join()
    span, cpu, target, tokens, rounds, fed = (b - a for a, b in zip(before, after, strict=True))
    return {
        "drafters": drafters,
        "sequences": drafters * sequences,
        "committed_per_second": tokens / span,
        "rounds_per_second": rounds / span,
        "tokens_per_round": fed / rounds,
        "cpu_us": 1e6 * cpu / tokens,
        "passes_us": 1e6 * target / tokens,
        "own_us": 1e6 * (cpu - target) / tokens,
    }


def idle_bytes(count: int) -> float:
    """Python's memory for each of so many sequences that have their first token and a grant, and wait.

    Beside their KV; prompts of 32 tokens.
    """
    settings = VerifierSettings(
        name="idle",
        barrier=True,
        budget_tokens=4 * count,
        max_sequences=count,
        max_context_tokens=CONTEXT,
        prefill_chunk_tokens=32 * count,
    )
    tracemalloc.start()
    ledger = Ledger(VerifierMetrics(), settings)
    engine = Engine(SyntheticTarget(count, Cost()), settings, ledger)
    opened = threading.Semaphore(0)
    client = Client("idle", "load", Account("idle", 1.0), 16, lambda frame: opened.release(len(frame.opened)))
    engine.attach(client)
    before = tracemalloc.get_traced_memory()[0]
    message = pb.Open(
        tokens=pack_tokens([1] * 32), prompt_tokens=32, max_tokens=512, sampling=pb.Sampling(top_p=1)
    )
    for key in range(1, count + 1):
        message.sequence = key
        engine.open(check_open(message, client, {}, VOCABULARY, CONTEXT))
    engine.start()
    for _ in range(count):
        assert opened.acquire(timeout=60)
    engine.stop(10)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / count


def _ask(pipe: Connection) -> tuple[float, ...]:
    pipe.send(True)
    answer: tuple[float, ...] = pipe.recv()
    return answer
