"""The verifier dies in the middle of answers."""

import threading

import pytest

from processes import LONG, PROMPT, eventually

pytestmark = pytest.mark.processes


def test_the_verifier_is_killed_and_the_answer_under_way_goes_on_to_the_same_text(own, tokenizer, greedy):
    verifier = own.verifier()
    drafter = own.drafter("faithful", own.uri("draft"), verifier)
    own.wait()
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
    eventually(lambda: not drafter.ready())
    assert "waiting for verifier" in drafter.get("/readyz").text
    verifier.start()
    asking.join(120)
    assert not asking.is_alive()
    assert len(pieces) > at_death
    assert [token for piece in pieces for token in piece.token_ids] == greedy(tokenizer.encode(PROMPT), LONG)
    assert drafter.metric("goodspeed_drafter_reconnects_total") == 2
