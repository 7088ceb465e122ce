"""What gRPC itself costs: the frames of the load, answered at once from prepared bytes.

No frame is parsed, checked or thought about. `KINDS` are servers to compare: gRPC's for asyncio, which the
verifier uses, and the one with threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import grpc

from emulation.cell import HOST
from emulation.load import ask, load_drafters, process
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.verifier.server import OPTIONS, SERVICE

GRANT = 4
WARM_UP_FRAMES = 5000


def _welcome() -> bytes:
    return pb.VerifierFrame(welcome=pb.Welcome()).SerializeToString()


def _answer(sequences: int) -> bytes:
    verdicts = [
        pb.Verdict(sequence=key, position=1000, accepted=3, next_token=1, has_next_token=True, grant=GRANT)
        for key in range(1, sequences + 1)
    ]
    return pb.VerifierFrame(verdicts=verdicts).SerializeToString()


class _Count:
    """Frames answered, with the time and the CPU seconds of this process."""

    def __init__(self) -> None:
        self.frames = 0

    def now(self) -> tuple[float, float, int]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return time.monotonic(), usage.ru_utime + usage.ru_stime, self.frames


def _handlers(behaviour: Callable[..., Any]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        SERVICE, {"Speculate": grpc.stream_stream_rpc_method_handler(behaviour)}
    )


def _asyncio(pipe: Connection, drafters: int, sequences: int) -> None:
    welcome, answer, count = _welcome(), _answer(sequences), _Count()

    async def speculate(_: AsyncIterator[bytes], context: Any) -> None:
        await context.read()
        await context.write(welcome)
        while await context.read() is not grpc.aio.EOF:
            await context.write(answer)
            count.frames += 1

    async def serve() -> None:
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((_handlers(speculate),))
        port = server.add_insecure_port(f"{HOST}:0")
        await server.start()
        pipe.send(port)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, pipe.recv):
            pipe.send(count.now())

    asyncio.run(serve())


def _threads(pipe: Connection, drafters: int, sequences: int) -> None:
    welcome, answer, count = _welcome(), _answer(sequences), _Count()

    def speculate(frames: Iterator[bytes], _: Any) -> Iterator[bytes]:
        next(frames)
        yield welcome
        for _ in frames:
            yield answer
            count.frames += 1

    server = grpc.server(ThreadPoolExecutor(drafters), options=OPTIONS)
    server.add_generic_rpc_handlers((_handlers(speculate),))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    pipe.send(port)
    while pipe.recv():
        pipe.send(count.now())


KINDS = {"asyncio": _asyncio, "threads": _threads}


def frame_seconds(kind: str, drafters: int, sequences: int, *, seconds: float, processes: int = 2) -> float:
    """CPU seconds of a server that reads a frame of drafts and writes one of verdicts, all threads."""
    with process(KINDS[kind], drafters, sequences) as server, contextlib.ExitStack() as stack:
        address = f"{HOST}:{server.recv()}"
        for start in range(processes):
            numbers = list(range(drafters))[start::processes]
            stack.enter_context(process(load_drafters, address, numbers, sequences))
        while ask(server)[2] < WARM_UP_FRAMES:
            time.sleep(0.2)
        before = ask(server)
        time.sleep(seconds)
        after = ask(server)
    return float((after[1] - before[1]) / (after[2] - before[2]))
