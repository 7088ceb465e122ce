"""A drafter dies in the middle of answers: the others go on, and what it held is free."""

import signal
import threading

import pytest

from processes import LONG, PROMPT, Stream, eventually

pytestmark = pytest.mark.processes


def test_a_drafter_is_killed_and_the_others_go_on_unchanged_while_its_slots_come_free(
    fleet, tokenizer, greedy
):
    verifier, victim = fleet["verifier"], fleet.drafter("victim", "ngram://", fleet["verifier"])
    others = [fleet["model"], fleet["lookup"]]
    fleet.wait()
    doomed = [Stream(victim, PROMPT, LONG) for _ in range(3)]
    prompts = [PROMPT, "another prompt"]
    streams = [Stream(server, prompt, LONG) for server in others for prompt in prompts]
    eventually(lambda: all(stream.tokens for stream in doomed + streams))
    assert verifier.metric("goodspeed_drafter_active_sequences", drafter="victim") == 3
    victim.kill()
    eventually(lambda: 'drafter="victim"' not in verifier.body("/metrics"), 20)
    for stream in doomed:
        stream.join()
        assert stream.error is not None
    for stream in streams:
        stream.join()
        assert stream.error is None
        assert stream.tokens == greedy(tokenizer.encode(stream.prompt), LONG)
    eventually(lambda: verifier.metric("goodspeed_verifier_kv_slots_used") == 0)

    victim.start()
    fleet.wait()
    body = victim.complete(temperature=0, max_tokens=20, ignore_eos=True, return_token_ids=True).json()
    assert body["choices"][0]["token_ids"] == greedy(tokenizer.encode(PROMPT), 20)


def test_a_drafter_that_hangs_loses_its_slots_and_goes_on_when_it_wakes(fleet, tokenizer, greedy):
    verifier, sleeper = fleet["verifier"], fleet["lookup"]
    fleet.wait()
    streams = [Stream(sleeper, PROMPT, LONG), Stream(sleeper, "another prompt", LONG)]
    eventually(lambda: all(stream.tokens for stream in streams))
    sleeper.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: 'drafter="lookup"' not in verifier.body("/metrics"), 30)
        assert verifier.metric("goodspeed_verifier_kv_slots_used") == 0
        assert not any(stream.done for stream in streams)
    finally:
        sleeper.process.send_signal(signal.SIGCONT)
    for stream in streams:
        stream.join()
        assert stream.tokens == greedy(tokenizer.encode(stream.prompt), LONG)


def test_drafters_that_come_and_go_all_the_time_leave_nothing_behind(fleet, tokenizer, greedy):
    verifier, steady, restless = fleet["verifier"], fleet["model"], fleet["lookup"]
    fleet.wait()
    stop = threading.Event()
    answers = []

    def ask():
        while not stop.is_set():
            body = steady.complete(
                temperature=0, max_tokens=60, ignore_eos=True, return_token_ids=True
            ).json()
            answers.append(body["choices"][0]["token_ids"])

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(2):
        streams = [Stream(restless, PROMPT, LONG) for _ in range(3)]
        eventually(lambda streams=streams: all(stream.tokens for stream in streams))
        restless.kill()
        for stream in streams:
            stream.join()
        restless.start()
        eventually(restless.ready)
    stop.set()
    asking.join()
    assert answers
    assert all(tokens == greedy(tokenizer.encode(PROMPT), 60) for tokens in answers)
    eventually(lambda: verifier.metric("goodspeed_verifier_kv_slots_used") == 0)
