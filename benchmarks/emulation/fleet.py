"""Drafters in this process on links of their own, their users' demand, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import numpy as np

from emulation.cell import Cell
from emulation.network import Namespace, Proxy, Way
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.drafter.engine import DraftEngine
from goodspeed_runtime.drafter.generation import Generation
from goodspeed_runtime.drafter.settings import DrafterSettings
from goodspeed_runtime.metrics import DrafterMetrics
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb
from goodspeed_runtime.protocol.wire import TOKEN_BYTES
from goodspeed_runtime.scheduling.goodput import jain_index

START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Member:
    """One drafter of a fleet.

    Attributes:
        name: unique.
        engine: what it drafts with.
        way: to its verifier.
        prompts: one answer each is under way all the time, again and again.
        settings: of its own.
    """

    name: str
    engine: Callable[[], DraftEngine]
    way: Way
    prompts: Sequence[Sequence[int]]
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Seen:
    """What a drafter's users and its network saw while it was measured.

    Attributes:
        tokens: committed.
        gaps: seconds between a user's tokens, one entry a token.
        up, down: bytes to and from the verifier, headers included.
        drafted: draft tokens sent.
        drafts: that they came in.
        kept, dropped: tokens drafted ahead.
    """

    tokens: int = 0
    gaps: list[float] = field(default_factory=list)
    up: int = 0
    down: int = 0
    drafted: float = 0
    drafts: float = 0
    kept: float = 0
    dropped: float = 0


@dataclass(slots=True)
class Result:
    """One arm on one network.

    Attributes:
        seconds: that were measured.
        seen: by drafter.
        answers: the longest of each prompt, by drafter and prompt.
    """

    seconds: float
    seen: dict[str, Seen]
    answers: dict[tuple[str, int], list[int]]

    def goodput(self, *names: str) -> float:
        """Tokens per second of these drafters, or of all."""
        return sum(self.seen[name].tokens for name in names or self.seen) / self.seconds

    @property
    def fairness(self) -> float:
        """Jain's index of goodput per second between drafters."""
        return jain_index(np.array([each.tokens / self.seconds for each in self.seen.values()]))

    def gap(self, quantile: float, *names: str) -> float:
        """Seconds between a user's tokens."""
        return float(
            np.quantile([gap for name in names or self.seen for gap in self.seen[name].gaps], quantile)
        )

    def each(self, figure: str) -> float:
        """The sum of one of the figures of `Seen`."""
        return float(sum(getattr(each, figure) for each in self.seen.values()))


class _Drafter:
    def __init__(
        self, member: Member, proxy: Proxy, vocabulary: tuple[str, int], settings: dict[str, object]
    ) -> None:
        self.member = member
        self.proxy = proxy
        self.metrics = DrafterMetrics("bench", "bench", member.name)
        self.seen = Seen()
        self.answers: dict[int, list[int]] = {}
        fields = {
            "name": member.name,
            "pool": "bench",
            "cluster": "bench",
            "model": "bench",
            "target": "bench",
            "served_model_name": "bench",
            "verifiers": (proxy.address,),
            "max_sequences": len(member.prompts),
        }
        fingerprint, size = vocabulary
        self.generation = Generation(
            DrafterSettings(**(fields | settings | member.settings)),  # type: ignore[arg-type]
            member.engine(),
            self.metrics,
            tokenizer_fingerprint=fingerprint,
            vocabulary_size=size,
        )
        self.sent = 0
        self.drafts = 0
        self._send = self.generation.link.send
        self.generation.link.send = self._count  # type: ignore[method-assign]

    def _count(self, frame: pb.DrafterFrame) -> None:
        self.drafts += len(frame.drafts)
        self.sent += sum(len(draft.tokens) // TOKEN_BYTES for draft in frame.drafts)
        self._send(frame)

    async def ask(self, number: int, count: int, sampling: Sampling) -> None:
        """A user who asks the same again as soon as it is answered."""
        while True:
            answer: list[int] = []
            last = None
            stream = self.generation.generate(
                self.member.prompts[number], max_tokens=count, sampling=sampling, stop_tokens=()
            )
            async for committed in stream:
                now = time.monotonic()
                answer += committed.tokens
                self.seen.tokens += len(committed.tokens)
                if last is not None:
                    self.seen.gaps += [(now - last) / len(committed.tokens)] * len(committed.tokens)
                last = now
                if len(answer) > len(self.answers.get(number, ())):
                    self.answers[number] = answer

    def ahead(self, result: str) -> float:
        return _total(self.metrics, "goodspeed_drafter_ahead_tokens_total", result=result)


def _total(metrics: DrafterMetrics, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@contextlib.asynccontextmanager
async def _link(way: Way, port: int, number: int, *, namespaces: bool) -> AsyncIterator[Proxy]:
    if not namespaces:
        async with Proxy(way, port, number).serving() as proxy:
            yield proxy
        return
    async with Namespace(number, way).listener() as listener, Proxy(Way(), port).serving(listener) as proxy:
        yield proxy


async def run(
    cell: Cell,
    members: Sequence[Member],
    *,
    seconds: float,
    warm_up: float,
    tokens: int,
    vocabulary: tuple[str, int],
    sampling: Sampling,
    namespaces: bool = False,
    **settings: object,
) -> Result:
    """Serves the members' users for so long after a warm-up; settings are the drafters'."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(cell.serving())
        drafters = []
        tasks = []
        for number, member in enumerate(members):
            link = _link(member.way, cell.port, number, namespaces=namespaces)
            proxy = await stack.enter_async_context(link)
            drafter = _Drafter(member, proxy, vocabulary, settings)
            drafters.append(drafter)
            tasks.append(asyncio.create_task(drafter.generation.run()))
        try:
            async with asyncio.timeout(START_SECONDS):
                while not all(drafter.generation.link.connected for drafter in drafters):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            tasks += [
                asyncio.create_task(drafter.ask(number, tokens, sampling))
                for drafter in drafters
                for number in range(len(drafter.member.prompts))
            ]
            await _pass(warm_up, tasks)
            before = _snapshot(drafters)
            for drafter in drafters:
                drafter.seen = Seen()
            started = time.monotonic()
            await _pass(seconds, tasks)
            span = time.monotonic() - started
            after = _snapshot(drafters)
            results = {}
            for drafter, old, new in zip(drafters, before, after, strict=True):
                seen = drafter.seen
                seen.up, seen.down, seen.drafted, seen.drafts, seen.kept, seen.dropped = (
                    b - a for a, b in zip(old, new, strict=True)
                )
                results[drafter.member.name] = seen
                drafter.seen = Seen()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return Result(
        span,
        results,
        {
            (drafter.member.name, number): answer
            for drafter in drafters
            for number, answer in drafter.answers.items()
        },
    )


async def _pass(seconds: float, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Lets time pass; what fails meanwhile is raised."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def _snapshot(drafters: Sequence[_Drafter]) -> list[tuple[float, ...]]:
    return [
        (
            drafter.proxy.traffic.up,
            drafter.proxy.traffic.down,
            drafter.sent,
            drafter.drafts,
            drafter.ahead("kept"),
            drafter.ahead("dropped"),
        )
        for drafter in drafters
    ]
