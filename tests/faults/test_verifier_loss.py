"""The verifier dies, or only stops, in the middle of answers."""

import signal

import pytest

from processes import LONG, PROMPT, Stream, eventually

pytestmark = pytest.mark.processes


def begin(fleet):
    """Answers under way on both drafters, each somewhere in its middle."""
    fleet.wait()
    prompts = [PROMPT, "another prompt", "a third"]
    streams = [Stream(fleet[name], prompt, LONG) for name in ("model", "lookup") for prompt in prompts]
    eventually(lambda: all(len(stream.tokens) > 3 for stream in streams))
    return streams


def check(streams, tokenizer, greedy):
    """Every answer is the target's own: no token changed, repeated or lost."""
    for stream in streams:
        stream.join()
        assert stream.error is None
        assert stream.tokens == greedy(tokenizer.encode(stream.prompt), LONG)
        assert stream.finish == "length"


def test_the_verifier_is_killed_twice_and_answers_under_way_go_on_to_the_same_text(fleet, tokenizer, greedy):
    verifier, model = fleet["verifier"], fleet["model"]
    made = model.metric("goodspeed_drafter_reconnects_total")
    streams = begin(fleet)
    for _ in range(2):
        verifier.kill()
        before = [len(stream.tokens) for stream in streams]
        eventually(lambda: not model.ready())
        assert "waiting for verifier" in model.get("/readyz").text
        assert model.metric("goodspeed_drafter_connected") == 0
        verifier.start()
        eventually(
            lambda before=before: all(
                stream.done or len(stream.tokens) > count
                for stream, count in zip(streams, before, strict=True)
            )
        )
    check(streams, tokenizer, greedy)
    assert model.metric("goodspeed_drafter_reconnects_total") == made + 2
    eventually(lambda: verifier.metric("goodspeed_verifier_kv_slots_used") == 0)


def test_a_request_made_while_there_is_no_verifier_waits_for_it(fleet, tokenizer, greedy):
    fleet["verifier"].kill()
    eventually(lambda: not fleet["model"].ready())
    stream = Stream(fleet["model"], PROMPT, 40)
    fleet["verifier"].start()
    stream.join()
    assert stream.tokens == greedy(tokenizer.encode(PROMPT), 40)


def test_a_verifier_that_hangs_is_noticed_within_seconds_and_left(fleet, tokenizer, greedy):
    verifier, model = fleet["verifier"], fleet["model"]
    streams = begin(fleet)
    verifier.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: not model.ready(), 30)
        assert not any(stream.done for stream in streams)
    finally:
        verifier.process.send_signal(signal.SIGCONT)
    check(streams, tokenizer, greedy)


def test_a_verifier_told_to_stop_sends_its_drafters_away_and_the_next_one_takes_their_answers_over(
    fleet, tokenizer, greedy
):
    verifier = fleet["verifier"]
    streams = begin(fleet)
    verifier.process.send_signal(signal.SIGTERM)
    assert verifier.process.wait(60) == 0
    verifier.start()
    check(streams, tokenizer, greedy)
