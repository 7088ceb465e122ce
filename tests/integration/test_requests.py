"""Bad requests and too many of them: OpenAI's error shape, and nobody else is hurt."""

import json
import socket
import threading
import time

import httpx
import openai
import pytest

from processes import CONTEXT, PROMPT, eventually

pytestmark = pytest.mark.processes

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MESSAGES = [{"role": "user", "content": "hello"}]

# path, what the body differs in, status, code, param
BAD_FIELDS = {
    "prompt too long": (TEXT, {"prompt": "y" * CONTEXT}, 400, "context_length_exceeded", "prompt"),
    "messages too long": (
        CHAT,
        {"messages": [{"role": "user", "content": "y" * CONTEXT}]},
        400,
        "context_length_exceeded",
        "messages",
    ),
    "empty prompt": (TEXT, {"prompt": ""}, 400, "invalid_value", "prompt"),
    "no prompts": (TEXT, {"prompt": []}, 400, "invalid_value", "prompt"),
    "a prompt of another type": (TEXT, {"prompt": 7}, 400, "invalid_value", "prompt"),
    "half a character": (TEXT, {"prompt": "\ud800"}, 400, "invalid_value", "prompt"),
    "half a character in a chat": (
        CHAT,
        {"messages": [{"role": "user", "content": "\ud800"}]},
        400,
        "invalid_value",
        "messages.0.content",
    ),
    "half a character to stop at": (TEXT, {"stop": "\udfff"}, 400, "invalid_value", "stop.0"),
    "a token outside the vocabulary": (TEXT, {"prompt": [1, 257]}, 400, "invalid_value", "prompt"),
    "a negative token": (TEXT, {"prompt": [1, -1]}, 400, "invalid_value", "prompt"),
    "no messages": (CHAT, {"messages": []}, 400, "invalid_value", "messages"),
    "an unknown role": (
        CHAT,
        {"messages": [{"role": "robot", "content": "x"}]},
        400,
        "invalid_value",
        "messages.0.role",
    ),
    "an image": (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "invalid_value",
        "messages.0.content",
    ),
    "unknown model": (TEXT, {"model": "gpt-4"}, 404, "model_not_found", "model"),
    "unknown model in a chat": (CHAT, {"model": "gpt-4"}, 404, "model_not_found", "model"),
    "negative temperature": (TEXT, {"temperature": -1}, 400, "invalid_value", "temperature"),
    "too high a temperature": (TEXT, {"temperature": 2.5}, 400, "invalid_value", "temperature"),
    "temperature as text": (TEXT, {"temperature": "hot"}, 400, "invalid_value", "temperature"),
    "top_p of 0": (TEXT, {"top_p": 0}, 400, "invalid_value", "top_p"),
    "top_p over 1": (TEXT, {"top_p": 1.1}, 400, "invalid_value", "top_p"),
    "negative top_k": (TEXT, {"top_k": -2}, 400, "invalid_value", "top_k"),
    "no tokens": (TEXT, {"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    "a fraction of a token": (TEXT, {"max_tokens": 1.5}, 400, "invalid_value", "max_tokens"),
    "too many choices": (TEXT, {"n": 1000}, 400, "invalid_value", "n"),
    "too large a seed": (TEXT, {"seed": 1 << 64}, 400, "invalid_value", "seed"),
    "an empty stop": (TEXT, {"stop": [""]}, 400, "invalid_value", "stop.0"),
    "five stops": (TEXT, {"stop": list("abcde")}, 400, "invalid_value", "stop"),
    "options without a stream": (TEXT, {"stream_options": {}}, 400, "invalid_value", None),
    "what is not supported": (CHAT, {"tools": [{}]}, 400, "unsupported_parameter", "tools"),
    "what nobody knows": (TEXT, {"temprature": 1}, 400, "unknown_parameter", "temprature"),
}
BAD_BODIES = {
    "malformed JSON": (b'{"model": "target", ', "invalid_json"),
    "not JSON": (b"model=target", "invalid_json"),
    "nothing": (b"", "invalid_json"),
    "no UTF-8": (b'{"model": "\xff"}', "invalid_json"),
    "JSON nested beyond reason": (b"[" * 100_000, "invalid_json"),
    "NaN": (b'{"model": "target", "prompt": "x", "temperature": NaN}', "invalid_value"),
    "a list": (b"[]", "invalid_value"),
    "no model": (b'{"prompt": "x"}', "missing_required_parameter"),
    "no prompt": (b'{"model": "target"}', "missing_required_parameter"),
}


def error_of(response, status):
    """The error object, once it has been found to have OpenAI's shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    assert error["type"] == ("invalid_request_error" if status < 429 else "server_error")
    return error


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", BAD_FIELDS)
def test_a_bad_field_is_named_in_openais_error_shape(drafter, case, stream):
    path, fields, status, code, param = BAD_FIELDS[case]
    body = {"model": "target", **({"prompt": PROMPT} if path == TEXT else {"messages": MESSAGES})}
    if "stream_options" not in fields:
        body["stream"] = stream
    # json.dumps escapes lone surrogates, as a client in JavaScript would send them.
    text = json.dumps(body | fields)
    error = error_of(httpx.post(drafter.url + path, content=text, timeout=60), status)
    assert (error["code"], error["param"]) == (code, param), error


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_bad_body_gets_openais_error_shape(drafter, case):
    body, code = BAD_BODIES[case]
    assert error_of(httpx.post(drafter.url + TEXT, content=body, timeout=60), 400)["code"] == code


def test_a_body_too_large_is_not_read_to_its_end(drafter):
    body = b'{"model": "target", "prompt": "' + b"y" * (5 << 20) + b'"}'
    assert error_of(httpx.post(drafter.url + TEXT, content=body, timeout=60), 413)["code"] == "body_too_large"


def test_wrong_paths_and_methods_get_openais_error_shape_too(drafter):
    assert error_of(httpx.get(drafter.url + "/v1/nothing"), 404)["code"] == "not_found"
    assert error_of(httpx.get(drafter.url + TEXT), 405)["code"] == "method_not_allowed"
    assert error_of(httpx.get(drafter.url + "/v1/models/other"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize(
    "fields",
    [{"max_tokens": 1 << 40}, {"temperature": 1e-300}, {"top_p": 1e-300}, {"top_k": 1 << 20}, {"seed": -1}],
)
def test_extreme_values_that_mean_something_are_served(drafter, fields):
    body = {"max_tokens": 4, "ignore_eos": True} | fields
    response = drafter.complete(prompt="x" * (CONTEXT - 20), **body)
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] == min(body["max_tokens"], 20)


def test_a_client_that_never_reads_its_stream_does_not_keep_its_place(own):
    drafter = own.drafter(
        "single", "ngram://", own.verifier(), max_sequences=1, max_waiting=9, request_timeout=2
    )
    own.wait()
    body = json.dumps(
        {"model": "target", "prompt": PROMPT, "n": 4, "max_tokens": 450, "stream": True, "ignore_eos": True}
    ).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect((drafter.address, 8000))
        deaf.sendall(head + body)
        eventually(lambda: drafter.metric("goodspeed_drafter_sequences") == 1)
        eventually(lambda: drafter.metric("goodspeed_drafter_sequences") == 0)
        assert drafter.complete(max_tokens=3).status_code == 200


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


def test_nobody_may_wait_where_max_waiting_is_0_but_who_need_not_wait_is_served(own):
    drafter = own.drafter("brisk", "ngram://", own.verifier(), max_sequences=1, max_waiting=0)
    own.wait()
    assert drafter.complete(max_tokens=3).status_code == 200
    body = {"max_tokens": 400, "ignore_eos": True, "temperature": 0}
    asking = threading.Thread(target=drafter.complete, kwargs=body)
    asking.start()
    eventually(lambda: drafter.metric("goodspeed_drafter_sequences") == 1)
    assert drafter.complete(max_tokens=3).status_code == 429
    asking.join()


def test_more_requests_than_may_wait_are_told_to_come_again(own):
    drafter = own.drafter("full", "ngram://", max_sequences=1, max_waiting=1, request_timeout=5)
    eventually(lambda: "waiting for verifier" in drafter.body("/readyz"))
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
