"""Answers over HTTP from real drafters and a verifier: whole, streamed, stopped, many at once."""

import contextlib
import json
import threading
from pathlib import Path

import httpx
import pytest

from processes import CONTEXT, LONG, PROMPT, eventually

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("name", ["model", "lookup", "itself"])
def test_whoever_drafts_a_greedy_answer_is_the_targets_own(shared, tokenizer, greedy, name):
    body = shared[name].complete(temperature=0, max_tokens=60, ignore_eos=True, return_token_ids=True).json()
    prompt = tokenizer.encode(PROMPT)
    assert body["prompt_token_ids"] == prompt
    assert body["choices"][0]["token_ids"] == greedy(prompt, 60)
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

    before = counts()
    for seed in range(8):
        shared["itself"].complete(temperature=0, max_tokens=120, ignore_eos=True)
        shared["itself"].complete(temperature=1, top_k=20, seed=seed, max_tokens=120, ignore_eos=True)
        accepted, drafted = (now - then for now, then in zip(counts(), before, strict=True))
        # Its passes are as long as the target's, so the verifier often goes ahead alone.
        if drafted > 10:
            break
    assert drafted > 10
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

    url = f"{drafter.url}/v1/completions"
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
    eventually(lambda: drafter.metric("goodspeed_drafter_sequences") == 0)
    eventually(lambda: busy() == 0)


def test_a_drafter_that_only_looks_up_is_up_without_torch(shared):
    pid = shared["lookup"].process.pid
    assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    assert json.loads(shared["lookup"].get("/v1/models").text)["data"][0]["id"] == "target"
