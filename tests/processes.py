"""Verifiers and drafters as real processes, each on a loopback address of its own."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest

from goodspeed_operator.local.network import Block

CONTEXT = 512
PROMPT = "hello hello"
LONG = 400
GRPC_PORT = 50051
HTTP_PORT = {"verifier": 8081, "drafter": 8000}


def eventually(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.05)
    return value


class Server:
    """A verifier or drafter process; started again it keeps its address."""

    def __init__(self, part, address, log, **options):
        self.address = address
        self.url = f"http://{address}:{HTTP_PORT[part]}"
        options = {"address": address, "dtype": "float32", "threads": 1} | options
        self._command = [
            str(Path(sys.executable).parent / f"goodspeed-{part}"),
            *(
                f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
                for name, value in options.items()
            ),
        ]
        self._log = log
        self.process = None

    def start(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with self._log.open("a") as log:
            self.process = subprocess.Popen(self._command, stderr=log, stdout=log, env=environment)
        return self

    def get(self, path):
        return httpx.get(self.url + path, timeout=20)

    def body(self, path):
        """What it says there; nothing while it does not listen."""
        try:
            return self.get(path).text
        except httpx.TransportError:
            return ""

    def ready(self):
        if self.process.poll() is not None:
            pytest.fail(f"ended with {self.process.returncode}:\n{self.log()}")
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def log(self):
        return self._log.read_text()

    def post(self, path, **body):
        return httpx.post(self.url + path, json=body, timeout=120)

    def complete(self, **body):
        return self.post("/v1/completions", **({"model": "target", "prompt": PROMPT} | body))

    def metric(self, name, **labels):
        """The sum of a metric's series that carry these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.get("/metrics").text.splitlines()
            if line.startswith(name + "{") and all(label in line for label in wanted)
        )

    @property
    def client(self):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def kill(self):
        self.process.kill()
        self.process.wait(10)


class Stream:
    """A greedy answer streamed in a thread of its own.

    Attributes:
        tokens: what has come so far.
        finish: why it ended.
        error: what broke it.
    """

    def __init__(self, server, prompt, count):
        self.prompt = prompt
        self.tokens = []
        self.finish = self.error = None
        self._thread = threading.Thread(target=self._ask, args=(server, count), daemon=True)
        self._thread.start()

    def _ask(self, server, count):
        try:
            for chunk in server.client.completions.create(
                model="target",
                prompt=self.prompt,
                temperature=0,
                max_tokens=count,
                stream=True,
                extra_body={"ignore_eos": True, "return_token_ids": True},
            ):
                choice = chunk.choices[0]
                self.tokens += choice.token_ids
                self.finish = choice.finish_reason
        except (openai.OpenAIError, httpx.HTTPError) as error:
            self.error = error

    @property
    def done(self):
        return not self._thread.is_alive()

    def join(self):
        self._thread.join(200)
        assert self.done, "the answer has not ended"


class Fleet:
    """Starts servers on a block of addresses and leaves none behind."""

    def __init__(self, folder, logs):
        self.folder = folder
        self._logs = logs
        self._block = Block()
        self._servers = {}

    def __getitem__(self, name):
        return self._servers[name]

    def uri(self, name):
        return f"file://{self.folder / name}"

    def _start(self, part, name, **options):
        address = self._block.address(len(self._servers))
        server = Server(part, address, self._logs / f"{name}.log", name=name, **options)
        self._servers[name] = server
        return server.start()

    def verifier(self, name="verifier", **options):
        options = {"max_context_tokens": CONTEXT, "model": self.uri("target")} | options
        return self._start("verifier", name, **options)

    def drafter(self, name, model, verifier=None, **options):
        """A drafter of ``verifier``; of an address where nobody listens if there is none."""
        cell = verifier.address if verifier else self._block.address(200)
        options = {"target": self.uri("target"), "max_context_tokens": CONTEXT} | options
        return self._start("drafter", name, model=model, verifier=f"{cell}:{GRPC_PORT}", **options)

    def wait(self, *servers):
        eventually(lambda: all(server.ready() for server in servers or self._servers.values()))

    def stop(self):
        for server in self._servers.values():
            with contextlib.suppress(ProcessLookupError):
                server.kill()
        self._block.release()
