"""A drafter's life: refused for its vocabulary, waiting for a verifier, leaving on SIGTERM."""

import signal
import threading
import time

import pytest

from processes import LONG, eventually

pytestmark = pytest.mark.processes


def test_without_a_verifier_a_request_waits_and_is_then_told_so(own):
    drafter = own.drafter("lonely", "ngram://", request_timeout=1)
    eventually(lambda: "waiting for verifier" in drafter.body("/readyz"))
    started = time.monotonic()
    response = drafter.complete()
    assert time.monotonic() - started >= 1
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "verifier_unavailable"
    assert int(response.headers["retry-after"]) > 0


def test_sigterm_finishes_the_answer_under_way_and_exits_0(own, tokenizer, greedy):
    drafter = own.drafter("leaving", own.uri("draft"), own.verifier())
    own.wait()
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(
            drafter.complete(temperature=0, max_tokens=LONG, ignore_eos=True).json()
        )
    )
    asking.start()
    eventually(lambda: drafter.metric("goodspeed_drafter_sequences") == 1)
    drafter.process.send_signal(signal.SIGTERM)
    asking.join(90)
    assert answers[0]["usage"]["completion_tokens"] == LONG
    assert drafter.process.wait(60) == 0


def test_a_draft_model_with_another_vocabulary_is_refused_naming_both(own):
    drafter = own.drafter("alien", own.uri("alien"))
    assert drafter.process.wait(90) == 1
    assert "vocabulary of 260 ids" in drafter.log()
    assert "has 257 ids" in drafter.log()


def test_a_drafter_of_another_target_is_refused_by_the_verifier_and_says_so_before_it_gives_up(own):
    drafter = own.drafter("stranger", "ngram://", own.verifier(), target=own.uri("alien"))
    eventually(lambda: "refused by verifier" in drafter.body("/readyz"))
    said = drafter.get("/readyz")
    assert said.status_code == 503
    assert "260 ids" in said.text
    assert "257 ids" in said.text
    assert drafter.process.wait(90) == 1
    assert "260 ids" in drafter.log()
