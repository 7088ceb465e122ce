"""goodspeed as `gpu_end_to_end` runs it: a verifier and drafters as processes, gRPC between them."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from child_process import Child, ChildError
from random_model import SHAPES
from work import Answer, Work

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fleet:
    """What drafts, and how far it is allowed to.

    Attributes:
        drafts: where each drafter's drafts come from, by URI; with fewer requests at once, the first of them.
        speculates: False for a budget of nothing: the verifier decodes alone.
    """

    drafts: tuple[str, ...]
    speculates: bool = True


_BUILTIN = {f"{layers}l": f"builtin://smollm2-135m-draft-{layers}l" for layers in (4, 2, 1)}
REAL = {
    "goodspeed-fleet": Fleet((*_BUILTIN.values(), "ngram://")),
    **{f"goodspeed-{name}": Fleet((uri,)) for name, uri in _BUILTIN.items()},
    "goodspeed-lookup": Fleet(("ngram://",) * 4),
    "plain": Fleet(("ngram://",) * 4, speculates=False),
}
SYNTHETIC = {
    "goodspeed-elsewhere": Fleet(("synthetic://",) * 4),
    "goodspeed-0.6b": Fleet(("shape://0.6b",)),
    "goodspeed-tiny": Fleet(("shape://tiny",)),
    "plain": Fleet(("synthetic://",) * 4, speculates=False),
}


@dataclass(frozen=True)
class Room:
    """How large a verifier is.

    Attributes:
        at_once: most sequences.
        context: most tokens of one.
        drafted: budget, in draft tokens a sequence.
        objective: of its scheduler.
        acceptance: of the synthetic coin, where the weights are random.
        prefill: most prompt tokens in a round.
    """

    at_once: int
    context: int
    drafted: int
    objective: str
    acceptance: float
    prefill: int

    def budget(self, at_once: int) -> int:
        """C with so many sequences; one alone may use the longest draft there is."""
        return max(8, self.drafted * at_once)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Verifier:
    """A verifier's process, started once and told its budget by its own HTTP order."""

    def __init__(self, model: str, device: str, room: Room, end: float) -> None:
        grpc, http = _free_port(), _free_port()
        self.address, self._url = f"127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"
        self.room = room
        synthetic = model in SHAPES
        most = room.budget(room.at_once)
        command = [
            *(sys.executable, str(HERE / ("synthetic_verifier.py" if synthetic else "verifier_process.py"))),
            f"--model={model}",
            f"--device={device}",
            f"--grpc-port={grpc}",
            f"--http-port={http}",
            f"--budget-tokens={most}",
            f"--most-budget-tokens={most}",
            f"--max-sequences={room.at_once}",
            f"--max-context-tokens={room.context}",
            f"--prefill-chunk-tokens={room.prefill}",
            f"--objective={room.objective}",
            *([f"--acceptance={room.acceptance}"] if synthetic else ["--address=127.0.0.1"]),
        ]
        self._child = Child(command, {})
        try:
            self._child.wait_ready(f"{self._url}/readyz", end)
        except ChildError:
            self.stop()
            raise

    def order(self, fleet: Fleet, at_once: int) -> None:
        """Sets the budget for a fleet with so many sequences."""
        tokens = self.room.budget(at_once) if fleet.speculates else 0
        httpx.put(f"{self._url}/budget", json={"tokens": tokens}, timeout=10).raise_for_status()

    def stop(self) -> None:
        """Ends it."""
        self._child.stop()


@contextlib.contextmanager
def drafters(fleet: Fleet, verifier: Verifier, works: Sequence[Work], end: float) -> Iterator[list[Child]]:
    """The processes of a fleet, welcomed by the verifier; no more than have anything to do."""
    with contextlib.ExitStack() as stack:
        children = []
        for number, draft in enumerate(fleet.drafts[: verifier.room.at_once]):
            command = [
                *(sys.executable, str(HERE / "drafting_process.py")),
                f"--draft={draft}",
                f"--target={works[0].model}",
                f"--verifier={verifier.address}",
                f"--name=drafter-{number}",
                f"--device={works[0].device}",
                # One that is all there is may get everything.
                f"--max-sequences={verifier.room.at_once}",
                f"--max-context-tokens={verifier.room.context}",
            ]
            child = Child(command, {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
            stack.callback(child.stop)
            children.append(child)
        for child in children:
            child.hear(end)
        yield children


def answer(children: Sequence[Child], work: Work, end: float) -> tuple[list[Answer], float]:
    """Divides a work among drafters; answers in the order of its prompts, and the seconds it took."""
    used = children[: work.at_once]
    for number, child in enumerate(used):
        places = len(range(number, work.at_once, len(used)))
        child.say(asdict(replace(work, prompts=work.prompts[number :: len(used)], at_once=places)))
    found: list[dict[str, Any]] = []
    for child in used:
        heard = child.hear(end)
        if heard is None:
            raise ChildError("a drafter has left")
        found.append(heard)
    answers: list[Answer | None] = [None] * len(work.prompts)
    for number, part in enumerate(found):
        answers[number :: len(used)] = [Answer(**each) for each in part["answers"]]
    seconds = max(part["ended"] for part in found) - min(part["started"] for part in found)
    return [each for each in answers if each is not None], seconds


def run(
    fleet: Fleet, verifier: Verifier, works: Sequence[Work], spare: Sequence[list[int]], seconds: float
) -> Iterator[tuple[Work, list[Answer], float]]:
    """Answers works one after the other, each warmed up with ``spare`` prompts, all within ``seconds``.

    Yields each work with its answers and how long they took.

    Raises:
        ChildError: something has ended, or took too long.
    """
    end = time.monotonic() + seconds
    with drafters(fleet, verifier, works, end) as children:
        for work in works:
            verifier.order(fleet, work.at_once)
            answer(children, work.warm_up(spare), end)
            answers, took = answer(children, work, end)
            yield work, answers, took
