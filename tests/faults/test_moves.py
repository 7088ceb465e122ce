"""Drafters are sent from cell to cell in the middle of answers."""

import signal
import time

import httpx
import pytest

from processes import GRPC_PORT, LONG, PROMPT, Stream, eventually

pytestmark = pytest.mark.processes

PROMPTS = [PROMPT, "another prompt", "a third"]


def two(own, **options):
    first, second = (own.verifier(name, max_sequences=8, **options) for name in ("first", "second"))
    own.wait()
    for name, model in (("model", own.uri("draft")), ("lookup", "ngram://")):
        own.drafter(name, model, first, cells=f"{second.address}:{GRPC_PORT}")
    own.wait()
    return first, second


@pytest.fixture
def cells(own):
    """Two cells; drafters that begin in the first and know of the second."""
    return two(own)


def send(drafter, source, target):
    """The order that the operator gives."""
    url = f"{source.url}/drafters/{drafter}/cell"
    return httpx.put(url, json={"verifier": f"{target.address}:{GRPC_PORT}"}, timeout=10)


def attached(cell):
    return {name for name in ("model", "lookup") if f'drafter="{name}"' in cell.get("/metrics").text}


def test_answers_move_between_cells_and_back_without_a_lost_or_repeated_token(own, cells, tokenizer, greedy):
    first, second = cells
    streams = [Stream(own[name], prompt, LONG) for name in ("model", "lookup") for prompt in PROMPTS]
    eventually(lambda: all(len(stream.tokens) > 3 for stream in streams))
    source, target = first, second
    for _ in range(4):
        assert send("model", source, target).status_code == 202
        eventually(lambda target=target: "model" in attached(target))
        source, target = target, source
        assert not [stream for stream in streams if stream.done]
    assert own["model"].metric("goodspeed_drafter_moves_total") == 4
    for stream in streams:
        stream.join()
        assert stream.error is None
        assert stream.tokens == greedy(tokenizer.encode(stream.prompt), LONG)
    counted = first.metric("goodspeed_spec_decode_emitted_tokens_total", drafter="lookup")
    assert counted == sum(len(stream.tokens) for stream in streams[3:])


def test_a_move_counts_every_token_once(own):
    first, second = two(own, barrier=True)
    stream = Stream(own["model"], PROMPT, LONG)
    eventually(lambda: len(stream.tokens) > 20)

    def count(cell):
        return cell.metric("goodspeed_spec_decode_emitted_tokens_total", drafter="model")

    # Behind a barrier no round runs while the drafter stands still: the first cell's count is its last word.
    own["model"].process.send_signal(signal.SIGSTOP)
    time.sleep(1)
    before = count(first)
    send("model", first, second)
    own["model"].process.send_signal(signal.SIGCONT)
    stream.join()
    assert before > 20
    assert before + count(second) == len(stream.tokens) == LONG


def test_a_drafter_that_left_leaves_no_series_behind(own, cells):
    first, second = cells
    twin = own.drafter("twin", own.uri("target"), first, cells=f"{second.address}:{GRPC_PORT}")
    own.wait()
    twin.complete(max_tokens=20, temperature=0, ignore_eos=True)
    assert first.metric("goodspeed_spec_decode_accepted_tokens_per_pos_total", drafter="twin") > 0
    send("twin", first, second)
    eventually(lambda: 'drafter="twin"' in second.get("/metrics").text)
    assert 'drafter="twin"' not in first.get("/metrics").text
    twin.kill()
    eventually(lambda: 'drafter="twin"' not in second.get("/metrics").text)


def test_a_drafter_goes_to_no_cell_that_it_was_not_told_of(own, cells, tokenizer, greedy):
    first, _ = cells
    stream = Stream(own["model"], PROMPT, LONG)
    eventually(lambda: len(stream.tokens) > 3)
    address = f"{first.url}/drafters/model/cell"
    assert httpx.put(address, json={"verifier": "203.0.113.7:50051"}, timeout=10).status_code == 202
    stream.join()
    assert stream.tokens == greedy(tokenizer.encode(PROMPT), LONG)
    assert "no cell of ours" in own["model"].log()
    assert own["model"].metric("goodspeed_drafter_moves_total") == 0


def test_orders_that_make_no_sense_are_refused_with_words(cells):
    first, second = cells
    assert send("nobody", first, second).status_code == 404
    for body in ({}, {"verifier": 3}, ["verifier"]):
        answer = httpx.put(f"{first.url}/drafters/model/cell", json=body, timeout=10)
        assert answer.status_code == 400
        assert "host:port" in answer.text
    for tokens in (-1, 33, "8", True, None):
        answer = httpx.put(f"{first.url}/budget", json={"tokens": tokens}, timeout=10)
        assert answer.status_code == 400
        assert "0 to 32" in answer.text


def test_a_cell_may_be_asked_for_by_its_name(own, cells):
    first, second = cells
    named = f"second-cell={second.address}:{GRPC_PORT}"
    own.drafter("twin", "ngram://", first, cells=named)
    own.wait()
    url = f"{first.url}/drafters/twin/cell"
    assert httpx.put(url, json={"verifier": "second-cell"}, timeout=10).status_code == 202
    eventually(lambda: 'drafter="twin"' in second.get("/metrics").text)


def test_a_budget_holds_from_the_next_round_on(own, cells):
    first, _ = cells
    assert httpx.put(f"{first.url}/budget", json={"tokens": 0}, timeout=10).status_code == 200
    assert first.metric("goodspeed_verifier_budget_tokens") == 0
    drafted = first.metric("goodspeed_spec_decode_draft_tokens_total")
    own["model"].complete(max_tokens=20, temperature=0, ignore_eos=True)
    assert first.metric("goodspeed_spec_decode_draft_tokens_total") == drafted
    httpx.put(f"{first.url}/budget", json={"tokens": 32}, timeout=10)

    def drafts_count():
        # On a busy machine the rounds overtake a drafter's first, slow drafts.
        own["model"].complete(max_tokens=20, temperature=0, ignore_eos=True)
        return first.metric("goodspeed_spec_decode_draft_tokens_total") > drafted

    eventually(drafts_count)


def test_a_cell_that_dies_while_a_drafter_is_on_its_way_there_costs_no_token(own, cells, tokenizer, greedy):
    first, second = cells
    stream = Stream(own["model"], PROMPT, LONG)
    eventually(lambda: len(stream.tokens) > 3)
    second.kill()
    send("model", first, second)
    time.sleep(0.5)
    stream.join()
    assert stream.tokens == greedy(tokenizer.encode(PROMPT), LONG)
