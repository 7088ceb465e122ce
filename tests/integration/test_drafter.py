"""Drafters and a verifier as real processes, a tiny random model, OpenAI's own client."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest

from goodspeed_runtime.decoding.reference import Reference
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.tokenizer import load_tokenizer
from goodspeed_runtime.models.uri import ModelURI
from tiny_model import make

pytestmark = pytest.mark.processes

CONTEXT = 512
PROMPT = "hello hello"
LONG = 400


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def eventually(condition, seconds=40.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.05)


class Server:
    """A verifier or drafter process; started again it keeps its ports."""

    def __init__(self, part, log, **options):
        self.port = free_port()
        options = {"http_port": self.port, "address": "127.0.0.1", "dtype": "float32", "threads": 1} | options
        if options.get("model") == "ngram://":
            del options["dtype"], options["threads"]
        self._command = [
            str(Path(sys.executable).parent / f"goodspeed-{part}"),
            *(f"--{name.replace('_', '-')}={value}" for name, value in options.items()),
        ]
        self._log = log
        self.process = None

    def start(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with self._log.open("a") as log:
            self.process = subprocess.Popen(self._command, stderr=log, stdout=log, env=environment)
        return self

    def get(self, path):
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)

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
        return httpx.post(f"http://127.0.0.1:{self.port}{path}", json=body, timeout=90)

    def complete(self, **body):
        return self.post("/v1/completions", **({"model": "target", "prompt": PROMPT} | body))

    def metric(self, name):
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(name + "{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    @property
    def client(self):
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0)

    def kill(self):
        self.process.kill()
        self.process.wait(10)


class Fleet:
    """Starts servers and leaves none behind."""

    def __init__(self, folder):
        self.folder = folder
        self.grpc_port = free_port()
        self._servers = []

    def uri(self, name):
        return f"file://{self.folder / name}"

    def _start(self, part, name, **options):
        server = Server(part, self.folder / f"{name}.log", name=name, **options)
        self._servers.append(server)
        return server.start()

    def verifier(self, name="verifier", **options):
        options = {"grpc_port": self.grpc_port, "max_context_tokens": CONTEXT} | options
        return self._start("verifier", name, model=self.uri("target"), **options)

    def drafter(self, name, model, **options):
        options = {"target": self.uri("target"), "max_context_tokens": CONTEXT} | options
        return self._start("drafter", name, model=model, verifier=f"127.0.0.1:{self.grpc_port}", **options)

    def stop(self):
        for server in self._servers:
            with contextlib.suppress(ProcessLookupError):
                server.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make(folder / "target", seed=1)
    make(folder / "draft", seed=1, layers=1)
    make(folder / "alien", seed=1, layers=1, extra=3)
    return folder


@pytest.fixture(scope="module")
def shared(folder):
    fleet = Fleet(folder)
    fleet.servers = {
        "verifier": fleet.verifier(),
        "model": fleet.drafter("model", fleet.uri("draft")),
        "lookup": fleet.drafter("lookup", "ngram://"),
        "itself": fleet.drafter("itself", fleet.uri("target")),
    }
    try:
        eventually(lambda: all(server.ready() for server in fleet.servers.values()))
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture
def verifier(shared):
    return shared.servers["verifier"]


@pytest.fixture
def drafter(shared):
    return shared.servers["model"]


@pytest.fixture
def own(folder):
    """A fleet of one test's own, to be broken."""
    fleet = Fleet(folder)
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def greedy(folder):
    """The target's own greedy answer, from plain passes."""
    reference = Reference(load_model(ModelURI.parse(f"file://{folder / 'target'}"), dtype="float32"))

    def answer(prompt, count, stop_tokens=()):
        return reference.greedy(prompt, count, stop_tokens)

    return answer


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(ModelURI.parse(f"file://{folder / 'target'}"))


@pytest.mark.parametrize("name", ["model", "lookup", "itself"])
def test_whoever_drafts_a_greedy_answer_is_the_targets_own(shared, tokenizer, greedy, name):
    body = (
        shared.servers[name]
        .complete(temperature=0, max_tokens=60, ignore_eos=True, return_token_ids=True)
        .json()
    )
    prompt = tokenizer.encode(PROMPT)
    assert body["prompt_token_ids"] == prompt
    assert body["choices"][0]["token_ids"] == list(greedy(prompt, 60))
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 60,
        "total_tokens": len(prompt) + 60,
    }


def test_a_draft_model_that_is_the_target_has_nearly_all_its_tokens_accepted(shared, verifier):
    def counts():
        lines = verifier.get("/metrics").text.splitlines()
        return [
            next(
                float(line.rpartition(" ")[2])
                for line in lines
                if line.startswith(name) and '"itself"' in line
            )
            for name in (
                "goodspeed_spec_decode_accepted_tokens_total",
                "goodspeed_spec_decode_draft_tokens_total",
            )
        ]

    accepted, drafted = counts()
    shared.servers["itself"].complete(temperature=0, max_tokens=120, ignore_eos=True)
    shared.servers["itself"].complete(temperature=1, top_k=20, seed=4, max_tokens=120, ignore_eos=True)
    accepted, drafted = (now - before for now, before in zip(counts(), (accepted, drafted), strict=True))
    assert drafted > 50
    assert accepted / drafted > 0.95


def test_openais_client_streams_the_same_chat_that_it_gets_whole(drafter):
    question = {
        "model": "target",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Who are"}, {"type": "text", "text": " you?"}],
            },
        ],
        "temperature": 0.8,
        "seed": 11,
        "max_completion_tokens": 40,
        "extra_body": {"top_k": 20, "return_token_ids": True},
    }
    whole = drafter.client.chat.completions.create(**question)
    chunks = list(
        drafter.client.chat.completions.create(
            **question, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == sum(len(c.choices[0].token_ids) for c in chunks[:-1])
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens == len(whole.prompt_token_ids)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason in {"stop", "length"}
    # The prefill's own token comes from target, prompt and seed alone; later ones depend on the grants too.
    assert chunks[0].choices[0].token_ids[:1] == whole.choices[0].token_ids[:1]


def test_a_greedy_stream_adds_up_to_the_whole_answer(drafter):
    question = {"model": "target", "prompt": PROMPT, "temperature": 0, "max_tokens": 50}
    whole = drafter.client.completions.create(**question)
    chunks = list(drafter.client.completions.create(**question, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]


def test_a_stop_string_ends_the_answer_before_it_and_is_not_shown(drafter, tokenizer):
    body = drafter.complete(temperature=0, max_tokens=60, ignore_eos=True, return_token_ids=True).json()
    text = body["choices"][0]["text"]
    stop = text[20:23]
    cut = drafter.complete(
        temperature=0, max_tokens=60, ignore_eos=True, stop=[stop, "never"], return_token_ids=True
    ).json()
    choice = cut["choices"][0]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    assert choice["token_ids"] == body["choices"][0]["token_ids"][: len(choice["token_ids"])]
    assert cut["usage"]["completion_tokens"] == len(choice["token_ids"])


def test_a_stop_token_ends_the_answer_unless_told_to_ignore_it(drafter, tokenizer, greedy, folder):
    # At temperature 2 a random model says its end soon enough.
    bodies = [
        drafter.complete(temperature=2, max_tokens=LONG, seed=seed, return_token_ids=True).json()
        for seed in range(8)
    ]
    ended = [b["choices"][0] for b in bodies if b["choices"][0]["finish_reason"] == "stop"]
    assert ended, "no answer ended by itself"
    assert all(choice["token_ids"][-1] in tokenizer.stop_tokens for choice in ended)
    assert not any(set(choice["token_ids"][:-1]) & set(tokenizer.stop_tokens) for choice in ended)
    on = drafter.complete(temperature=2, max_tokens=LONG, seed=0, ignore_eos=True).json()
    assert on["usage"]["completion_tokens"] == LONG


def test_prompts_and_n_give_their_product_of_choices_in_order(drafter):
    body = drafter.complete(
        prompt=["a", "bcd"], n=2, temperature=0, max_tokens=5, ignore_eos=True, return_token_ids=True
    ).json()
    ids = [choice["token_ids"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 20, "total_tokens": 24}


def test_n_answers_with_a_seed_differ(drafter):
    body = drafter.complete(n=4, temperature=1.5, seed=1, max_tokens=20, ignore_eos=True).json()
    assert len({choice["text"] for choice in body["choices"]}) == 4


def test_many_requests_at_once_get_what_each_gets_alone(drafter):
    prompts = [f"prompt number {number}" for number in range(24)]
    alone = {
        p: drafter.complete(prompt=p, temperature=0, max_tokens=24).json()["choices"][0]["text"]
        for p in prompts
    }
    together = {}

    def ask(prompt):
        together[prompt] = drafter.complete(prompt=prompt, temperature=0, max_tokens=24).json()["choices"][0][
            "text"
        ]

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_an_answer_that_fills_the_context_ends_there_with_length(drafter):
    prompt = "x" * (CONTEXT - 10)
    body = drafter.complete(prompt=prompt, temperature=0, max_tokens=100, ignore_eos=True).json()
    assert body["usage"]["completion_tokens"] == 10
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place_at_the_verifier(drafter, verifier, stream):
    def busy():
        return verifier.metric("goodspeed_verifier_kv_slots_used")

    url = f"http://127.0.0.1:{drafter.port}/v1/completions"
    body = {
        "model": "target",
        "prompt": PROMPT,
        "max_tokens": LONG,
        "n": 8,
        "ignore_eos": True,
        "stream": stream,
    }
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.stream("POST", url, json=body, timeout=0.3) as response,
    ):
        for _, _ in zip(response.iter_lines(), range(5), strict=False):
            pass
    eventually(lambda: drafter.metric("goodspeed_drafter_sequences") == 0, 5)
    eventually(lambda: busy() == 0, 5)


def test_the_verifier_is_killed_and_the_answer_under_way_goes_on_to_the_same_text(own, tokenizer, greedy):
    verifier, drafter = own.verifier("mortal"), own.drafter("faithful", own.uri("draft"))
    eventually(lambda: drafter.ready())
    pieces = []

    def ask():
        chunks = drafter.client.completions.create(
            model="target",
            prompt=PROMPT,
            temperature=0,
            max_tokens=LONG,
            stream=True,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        pieces.extend(chunk.choices[0] for chunk in chunks)

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: len(pieces) > 3)
    verifier.kill()
    at_death = len(pieces)
    eventually(lambda: not drafter.ready(), 10)
    assert "waiting for verifier" in drafter.get("/readyz").text
    verifier.start()
    asking.join(60)
    assert not asking.is_alive()
    assert len(pieces) > at_death
    assert [token for piece in pieces for token in piece.token_ids] == list(
        greedy(tokenizer.encode(PROMPT), LONG)
    )
    assert drafter.metric("goodspeed_drafter_reconnects_total") == 2


def test_without_a_verifier_a_request_waits_and_is_then_told_so(own):
    drafter = own.drafter("lonely", "ngram://", request_timeout=1)
    eventually(lambda: "waiting for verifier" in _body(drafter, "/readyz"))
    started = time.monotonic()
    response = drafter.complete()
    assert time.monotonic() - started >= 1
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "verifier_unavailable"
    assert int(response.headers["retry-after"]) > 0


def _body(server, path):
    try:
        return server.get(path).text
    except httpx.TransportError:
        return ""


def test_more_requests_than_may_wait_are_told_to_come_again(own):
    drafter = own.drafter("full", "ngram://", max_sequences=1, max_waiting=1, request_timeout=5)
    eventually(lambda: "waiting for verifier" in _body(drafter, "/readyz"))
    threads = [threading.Thread(target=drafter.complete) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    response = drafter.complete()
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert int(response.headers["retry-after"]) > 0
    for thread in threads:
        thread.join()


def test_sigterm_finishes_the_answer_under_way_and_exits_0(own, tokenizer, greedy):
    own.verifier("patient")
    drafter = own.drafter("leaving", own.uri("draft"))
    eventually(lambda: drafter.ready())
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(
            drafter.complete(temperature=0, max_tokens=LONG, ignore_eos=True).json()
        )
    )
    asking.start()
    eventually(lambda: drafter.metric("goodspeed_drafter_sequences") == 1)
    drafter.process.send_signal(signal.SIGTERM)
    asking.join(30)
    assert answers[0]["usage"]["completion_tokens"] == LONG
    assert drafter.process.wait(10) == 0


def test_a_draft_model_with_another_vocabulary_is_refused_naming_both(own):
    drafter = own.drafter("alien", own.uri("alien"))
    assert drafter.process.wait(30) == 1
    assert "vocabulary of 260 ids" in drafter.log()
    assert "has 257 ids" in drafter.log()


def test_a_drafter_of_another_target_is_refused_by_the_verifier_and_says_so_before_it_gives_up(own):
    own.verifier("strict")
    drafter = own.drafter("stranger", "ngram://", target=own.uri("alien"))
    eventually(lambda: "refused by verifier" in _body(drafter, "/readyz"))
    said = drafter.get("/readyz")
    assert said.status_code == 503
    assert "260 ids" in said.text
    assert "257 ids" in said.text
    assert drafter.process.wait(40) == 1
    assert "260 ids" in drafter.log()


def test_bad_requests_are_told_what_is_wrong_and_hurt_nobody(drafter):
    ok = threading.Event()

    def ask():
        if (
            drafter.complete(temperature=0, max_tokens=100, ignore_eos=True).json()["usage"][
                "completion_tokens"
            ]
            == 100
        ):
            ok.set()

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(20):
        assert drafter.complete(prompt="y" * 600).json()["error"]["code"] == "context_length_exceeded"
        assert drafter.complete(temperature=-1).status_code == 400
    asking.join()
    assert ok.is_set()
    with pytest.raises(openai.NotFoundError, match="'target' is"):
        drafter.client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError) as raised:
        drafter.client.completions.create(model="target", prompt="x", logprobs=2)
    assert raised.value.param == "logprobs"


def test_a_drafter_that_only_looks_up_is_up_without_torch(shared):
    pid = shared.servers["lookup"].process.pid
    assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    assert json.loads(shared.servers["lookup"].get("/v1/models").text)["data"][0]["id"] == "target"
