"""Many drafters at once, as cheap as they can be: what a verifier's own work costs beside the target's.

The verifier runs in a process of its own, with a synthetic target that costs nothing, and the CPU seconds of
that whole process are counted: gRPC, checking, scheduling, the synthetic passes and their verification,
metrics. The drafters, in other processes, answer every grant at once from prepared bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import resource
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
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
from goodspeed_runtime.verifier.collection import exempt_loaded
from goodspeed_runtime.verifier.engine import Engine
from goodspeed_runtime.verifier.ledger import Ledger
from goodspeed_runtime.verifier.messages import check_open
from goodspeed_runtime.verifier.sequence import Account, Client
from goodspeed_runtime.verifier.settings import VerifierSettings

CONTEXT = 1 << 20
ACCEPTANCE = 0.8
WARM_UP_TOKENS = 100
_EMITTED = 5
"""Place of the tokens committed in what a verifier's process answers."""


def _verifier(pipe: Connection, settings: VerifierSettings) -> None:
    async def serve() -> None:
        model = SyntheticTarget(settings.max_sequences, Cost())
        cell = Cell(model, settings)
        judging = _Timed(verify)
        cell.engine._verify = judging
        exempt_loaded()
        async with cell.serving():
            pipe.send(cell.port)
            loop = asyncio.get_running_loop()
            rounds = cell.engine._thread.ident
            assert rounds is not None
            while await loop.run_in_executor(None, pipe.recv):
                usage = resource.getrusage(resource.RUSAGE_SELF)
                pipe.send(
                    (
                        time.monotonic(),
                        usage.ru_utime + usage.ru_stime,
                        time.clock_gettime(time.pthread_getcpuclockid(rounds)),
                        time.thread_time(),
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


@dataclass(slots=True)
class _Seen:
    """What drafters of a process got.

    Attributes:
        verdicts: that came.
        early: of them, the verifier's own token ahead of a draft.
        frames: that the verdicts came in.
        gaps: seconds between two verdicts of a sequence, and how many tokens the second one brought.
    """

    verdicts: int = 0
    early: int = 0
    frames: int = 0
    gaps: list[tuple[float, int]] = field(default_factory=list)

    def take(self) -> _Seen:
        """What was seen since the last time."""
        taken = _Seen(self.verdicts, self.early, self.frames, self.gaps)
        self.verdicts, self.early, self.frames, self.gaps = 0, 0, 0, []
        return taken


_COUNTS = ("verdicts", "early", "frames")


class _Drafter:
    """A stream that answers every grant from prepared bytes."""

    def __init__(self, number: int, sequences: int, seen: _Seen) -> None:
        self._number = number
        self._sequences = sequences
        self._seen = seen
        self._last = [0.0] * (sequences + 1)
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
                if frame.verdicts:
                    self._count(frame.verdicts)
                drafts += [
                    self._draft(
                        each.sequence, each.position + each.accepted + each.has_next_token, each.grant
                    )
                    for each in frame.verdicts
                    if not each.draft_awaited and each.grant
                ]
                if drafts:
                    await call.write(pb.DrafterFrame(drafts=drafts))

    def _count(self, verdicts: Many[pb.Verdict]) -> None:
        now, seen, last = time.monotonic(), self._seen, self._last
        seen.frames += 1
        seen.verdicts += len(verdicts)
        for each in verdicts:
            key = each.sequence
            seen.early += each.draft_awaited
            if last[key]:
                seen.gaps.append((now - last[key], each.accepted + each.has_next_token))
            last[key] = now

    def _draft(self, key: int, position: int, grant: int) -> pb.Draft:
        start = TOKEN_BYTES * (position % PERIOD)
        tokens = self._packed[key - 1][start : start + TOKEN_BYTES * grant]
        return pb.Draft(sequence=key, position=position, tokens=tokens, held_us=1)


def load_drafters(pipe: Connection, address: str, numbers: list[int], sequences: int) -> None:
    """A process of drafters, each with so many sequences; tells what they saw as often as it is asked."""

    async def run() -> None:
        seen = _Seen()
        drafters = [_Drafter(number, sequences, seen) for number in numbers]
        tasks = asyncio.gather(*(drafter.run(address) for drafter in drafters))
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, pipe.recv):
            if tasks.done():
                tasks.result()
            pipe.send(seen.take())
        tasks.cancel()

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
    with process(_verifier, settings) as verifier, contextlib.ExitStack() as stack:
        address = f"{HOST}:{verifier.recv()}"
        parts = [list(range(drafters))[start::processes] for start in range(processes)]
        loads = [stack.enter_context(process(load_drafters, address, part, sequences)) for part in parts]
        # Until every drafter is there and has long been given more than its first tokens.
        while ask(verifier)[_EMITTED] < WARM_UP_TOKENS * drafters * sequences:
            time.sleep(0.2)
        for load in loads:
            ask(load)
        before = ask(verifier)
        time.sleep(seconds)
        after = ask(verifier)
        seen = [ask(load) for load in loads]
    span, cpu, thread, loop, target, tokens, rounds, fed = (b - a for a, b in zip(before, after, strict=True))
    verdicts, early, frames = (sum(getattr(each, name) for each in seen) for name in _COUNTS)
    gaps, committed = np.concatenate([np.array(each.gaps) for each in seen]).T
    each_token = np.repeat(gaps / committed, committed.astype(np.int64))
    return {
        "drafters": drafters,
        "sequences": drafters * sequences,
        "committed_per_second": tokens / span,
        "rounds_per_second": rounds / span,
        "tokens_per_round": fed / rounds,
        "verdicts_per_frame": verdicts / frames,
        "committed_per_frame": float(committed.sum()) / frames,
        "tokens_per_verdict": float(committed.mean()),
        "early_share": early / verdicts,
        "p50_ms": 1e3 * float(np.quantile(each_token, 0.5)),
        "p95_ms": 1e3 * float(np.quantile(each_token, 0.95)),
        "cpu_us": 1e6 * cpu / tokens,
        "passes_us": 1e6 * target / tokens,
        "own_us": 1e6 * (cpu - target) / tokens,
        "rounds_us": 1e6 * (thread - target) / tokens,
        "loop_us": 1e6 * loop / tokens,
        "grpc_us": 1e6 * (cpu - thread - loop) / tokens,
    }


@contextlib.contextmanager
def process(target: Callable[..., None], *positional: Any) -> Iterator[Connection]:
    """A process and the way to it, until the block ends."""
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe()
    # As `goodspeed-verifier` sets it: threads that spin between passes are no work of the verifier's.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    process = context.Process(target=target, args=(end, *positional), daemon=True)
    process.start()
    try:
        yield pipe
    finally:
        process.terminate()
        process.join()


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
        # The prompts are the same, and none is to wait for what another computes.
        prefix_sharing="off",
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


def ask(pipe: Connection) -> Any:
    """What a process of `process` answers."""
    pipe.send(True)
    return pipe.recv()
