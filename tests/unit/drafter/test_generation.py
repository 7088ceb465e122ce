"""Answers from their own side: what a verifier may say to them, and what it may not."""

import asyncio
from contextlib import aclosing

import pytest

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.drafter.answer import AnswerError
from goodspeed_runtime.drafter.generation import Generation
from goodspeed_runtime.drafter.link import ViolationError
from goodspeed_runtime.drafter.lookup import LookupEngine
from goodspeed_runtime.drafter.settings import DrafterSettings
from goodspeed_runtime.metrics import DrafterMetrics
from goodspeed_runtime.protocol.generated import speculation_pb2 as pb

PROMPT = [1, 2, 3, 1, 2]


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - drafts are made in a thread
            await asyncio.sleep(0.005)


class Desk:
    """A generation whose link goes nowhere: the test reads what was sent and answers by hand."""

    def __init__(self, engine=None, **settings):
        fields = {"name": "d", "pool": "p", "cluster": "c", "model": "ngram://", "target": "t"}
        fields |= {"verifiers": ("127.0.0.1:9",), "served_model_name": "m", "max_draft_tokens": 4}
        self.generation = Generation(
            DrafterSettings(**(fields | settings)),
            engine or LookupEngine(),
            DrafterMetrics("c", "p", "d"),
            tokenizer_fingerprint="f",
            vocabulary_size=100,
        )
        self.sent = []
        self.generation.link.send = self.sent.append
        self.generation._up(pb.Welcome(max_context_tokens=64))

    def ask(self, max_tokens=20):
        return self.generation.generate(PROMPT, max_tokens=max_tokens, sampling=Sampling(0.0), stop_tokens=())

    def say(self, **parts):
        self.generation._received(pb.VerifierFrame(**parts))

    def drafts(self):
        return [draft for frame in self.sent for draft in frame.drafts]

    async def drafted(self, count):
        await until(lambda: len(self.drafts()) >= count)
        return self.drafts()[-1]


@pytest.fixture
async def desk():
    desk = Desk()
    drafting = asyncio.create_task(desk.generation._drafting.run())
    yield desk
    drafting.cancel()


async def begun(desk, answer, grant=4, least_chance=0):
    """An answer that was opened with token 3, and its first draft: prompt lookup says 1, 2."""
    first = asyncio.create_task(anext(answer))
    await until(lambda: desk.sent)
    key = desk.sent[0].opens[0].sequence
    opened = pb.Opened(sequence=key, position=5, token=3, grant=grant, least_chance=least_chance)
    desk.say(opened=[opened])
    assert (await first).tokens == [3]
    return key, await desk.drafted(1)


class Counting(LookupEngine):
    """Prompt lookup that knows how often it was asked."""

    calls = 0

    def draft(self, jobs):
        self.calls += 1
        return super().draft(jobs)


@pytest.mark.parametrize("ahead", [False, True])
async def test_it_drafts_while_a_verdict_is_under_way_only_where_it_is_told_to(ahead):
    desk = Desk(engine := Counting(), draft_ahead=ahead)
    drafting = asyncio.create_task(desk.generation._drafting.run())
    async with aclosing(desk.ask()) as answer:
        await begun(desk, answer)
        if ahead:
            await until(lambda: engine.calls > 1)
        else:
            await asyncio.sleep(0.3)
            assert engine.calls == 1
    drafting.cancel()


async def test_a_draft_ends_before_tokens_less_likely_to_stand_than_its_grant_asks(desk):
    async with aclosing(desk.ask()) as answer:
        key, draft = await begun(desk, answer, least_chance=100)
        assert len(draft.tokens) == 3
        desk.say(verdicts=[pb.Verdict(sequence=key, position=6, accepted=1, next_token=2, grant=4)])
        await anext(answer)
        assert len((await desk.drafted(2)).tokens) == 4 * 3


async def test_accepted_tokens_and_the_one_after_them_are_committed(desk):
    async with aclosing(desk.ask()) as answer:
        key, draft = await begun(desk, answer)
        assert draft.position == 6
        assert draft.tokens[:9] == bytes([1, 0, 0, 2, 0, 0, 3, 0, 0])
        desk.say(
            verdicts=[
                pb.Verdict(sequence=key, position=6, accepted=2, next_token=9, has_next_token=True, grant=0)
            ]
        )
        assert (await anext(answer)).tokens == [1, 2, 9]
        # A grant of zero asks for nothing: the verifier goes on alone until it grants again.
        desk.say(verdicts=[pb.Verdict(sequence=key, position=9, next_token=3, has_next_token=True, grant=2)])
        assert (await anext(answer)).tokens == [3]
        following = await desk.drafted(2)
        assert (following.position, len(desk.drafts())) == (10, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"accepted": 5, "next_token": 1, "has_next_token": True},
        {"accepted": 1, "next_token": 1, "has_next_token": True, "draft_awaited": True},
        {"accepted": 0, "has_next_token": False},
        {"accepted": 1, "finish": 9},
    ],
    ids=[
        "more accepted than drafted",
        "drafted tokens accepted before the draft has come",
        "nothing committed",
        "an end nobody knows",
    ],
)
async def test_a_verdict_that_cannot_be_is_a_violation_and_commits_nothing(desk, fields):
    async with aclosing(desk.ask()) as answer:
        key, _ = await begun(desk, answer)
        with pytest.raises(ViolationError):
            desk.say(verdicts=[pb.Verdict(sequence=key, position=6, **fields)])
        assert desk.generation._answers[key].tokens == [*PROMPT, 3]


async def test_a_verdict_for_another_position_or_sequence_is_not_taken(desk):
    async with aclosing(desk.ask()) as answer:
        key, _ = await begun(desk, answer)
        for sequence, position in ((key, 5), (key, 7), (key + 1, 6)):
            desk.say(
                verdicts=[pb.Verdict(sequence=sequence, position=position, next_token=9, has_next_token=True)]
            )
        assert desk.generation._answers[key].tokens == [*PROMPT, 3]


async def test_a_grant_over_the_drafters_own_limit_is_cut_to_it(desk):
    async with aclosing(desk.ask()) as answer:
        _, draft = await begun(desk, answer, grant=60)
        assert len(draft.tokens) // 3 <= 4


async def test_a_new_verifier_is_told_prompt_and_everything_committed(desk):
    async with aclosing(desk.ask()) as answer:
        key, _ = await begun(desk, answer)
        desk.generation._down("gone")
        desk.sent.clear()
        desk.generation._up(pb.Welcome(max_context_tokens=64))
        (message,) = desk.sent[0].opens
        assert message.sequence == key
        assert message.tokens == bytes(byte for token in [*PROMPT, 3] for byte in (token, 0, 0))
        assert (message.prompt_tokens, message.max_tokens) == (5, 20)


async def test_an_error_worth_retrying_opens_it_again_and_in_the_end_it_is_told(desk, monkeypatch):
    monkeypatch.setattr("goodspeed_runtime.drafter.generation.RETRY_SECONDS", 0.001)
    monkeypatch.setattr(type(desk.generation.link), "connected", True)
    async with aclosing(desk.ask()) as answer:
        key, _ = await begun(desk, answer)
        opens = 1
        for _ in range(5):
            desk.say(errors=[pb.Error(sequence=key, code=pb.INTERNAL, message="a pass failed")])
            opens += 1
            await until(lambda wanted=opens: sum(len(frame.opens) for frame in desk.sent) == wanted)
        desk.say(errors=[pb.Error(sequence=key, code=pb.INTERNAL, message="a pass failed")])
        with pytest.raises(AnswerError, match="a pass failed") as raised:
            await anext(answer)
        assert raised.value.status == 500
    assert desk.sent[-1].closes[0].sequence == key


async def test_closing_an_answer_closes_its_sequence_and_frees_its_place():
    desk = Desk(max_sequences=1, max_waiting=0)
    async with aclosing(desk.ask()) as answer:
        asking = asyncio.create_task(anext(answer))
        await asyncio.sleep(0)
        with pytest.raises(AnswerError) as raised:
            await anext(desk.ask())
        assert raised.value.status == 429
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert desk.sent[-1].closes
    assert desk.generation.active == 0
    again = asyncio.create_task(anext(desk.ask()))
    await asyncio.sleep(0.01)
    assert desk.generation.active == 1
    again.cancel()
