"""Bad requests and too many of them: OpenAI's error shape, and nobody else is hurt."""

import threading
import time

import openai
import pytest

from processes import eventually

pytestmark = pytest.mark.processes


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
