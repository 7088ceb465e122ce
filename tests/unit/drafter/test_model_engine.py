import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from goodspeed_runtime.decoding.coupling import verify_coupled
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.verification import Request
from goodspeed_runtime.drafter.engine import Job
from goodspeed_runtime.drafter.model_engine import PREFILL_CHUNK, ModelEngine
from goodspeed_runtime.models.loading import LoadedModel
from goodspeed_runtime.models.uri import ModelURI

VOCABULARY = 40
GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=1.0, seed=7)


def loaded(positions=1024):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.4,
        pad_token_id=0,
    )
    module = LlamaForCausalLM(config).eval()
    return LoadedModel(ModelURI.parse("file:///tiny"), module, "tiny", torch.float32, torch.device("cpu"))


def engine(*, slots=4, max_context=512, support_size=8, model=None, vocabulary_size=VOCABULARY):
    return ModelEngine.load(
        model or loaded(),
        slots=slots,
        max_context=max_context,
        support_size=support_size,
        vocabulary_size=vocabulary_size,
    )


def first_q(draft):
    """The q of the first token, dense; other kernels for other shapes may move a weight by one."""
    dense, size = np.zeros(VOCABULARY), draft.block.support_sizes[0]
    dense[draft.block.support_ids[:size]] = draft.block.support_weights[:size]
    return dense / dense.sum()


@torch.inference_mode()
def plain_greedy(model, tokens, count):
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(int(model.module(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[-count:]


@pytest.mark.parametrize("size", [1, 2, 9, PREFILL_CHUNK, PREFILL_CHUNK + 1, 2 * PREFILL_CHUNK])
def test_a_greedy_draft_is_the_models_own_continuation(size):
    prompt = [(7 * i + i * i) % VOCABULARY for i in range(size)]
    (draft,) = engine(max_context=600).draft([Job(1, prompt, 5, GREEDY)])
    assert draft.block.tokens.tolist() == plain_greedy(loaded(), prompt, 5)
    assert not draft.block.support_sizes.any()


ROUNDS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, VOCABULARY - 1)), max_size=8)


@settings(max_examples=25, deadline=None)
@given(ROUNDS, ROUNDS, st.sampled_from([GREEDY, WARM]))
def test_whatever_verdicts_come_the_cache_drafts_as_if_it_had_read_everything_afresh(first, second, sampling):
    kept = engine()
    texts = {1: [1, 2, 3], 2: [4, 5]}
    for steps in zip(first, second, strict=False):
        jobs = [
            Job(key, list(texts[key]), grant, sampling)
            for key, (grant, _, _) in zip(texts, steps, strict=True)
            if grant
        ]
        drafts = dict(zip([job.key for job in jobs], kept.draft(jobs), strict=True))
        for job in jobs:
            (afresh,) = engine().draft([job])
            if sampling.greedy:
                assert drafts[job.key].block.tokens.tolist() == afresh.block.tokens.tolist()
            else:
                np.testing.assert_allclose(first_q(drafts[job.key]), first_q(afresh), atol=1e-3)
        for key, (_, accepted, token) in zip(texts, steps, strict=True):
            drafted = drafts[key].block.tokens.tolist() if key in drafts else []
            texts[key] += [*drafted[:accepted], token]


def test_a_drafted_token_is_in_its_own_support_and_supports_keep_their_bound():
    jobs = [
        Job(key, [key, 3], 6, Sampling(temperature=1.3, top_k=5, top_p=0.9, seed=key)) for key in range(1, 5)
    ]
    for draft in engine(support_size=8).draft(jobs):
        ends = np.cumsum(draft.block.support_sizes)
        assert draft.block.support_sizes.max() <= 5
        for token, start, end in zip(draft.block.tokens, ends - draft.block.support_sizes, ends, strict=True):
            assert token in draft.block.support_ids[start:end]


def test_a_sequence_without_a_slot_gets_an_empty_draft_until_another_is_released():
    small = engine(slots=1)
    first, second = small.draft([Job(1, [1], 3, GREEDY), Job(2, [2], 3, GREEDY)])
    assert (len(first), len(second)) == (3, 0)
    small.release(1)
    (second,) = small.draft([Job(2, [2], 3, GREEDY)])
    assert len(second) == 3


def test_drafts_end_with_the_context_and_stop_after_it():
    small = engine(max_context=8)
    assert [len(small.draft([Job(1, [1] * size, 5, GREEDY)])[0]) for size in (4, 6, 8, 9)] == [5, 3, 1, 0]


def test_a_draft_model_with_fewer_positions_than_the_target_drafts_as_far_as_it_can():
    short = engine(model=loaded(positions=16), max_context=64)
    assert len(short.draft([Job(1, [1] * 14, 5, GREEDY)])[0]) == 3
    assert len(short.draft([Job(1, [1] * 30, 5, GREEDY)])[0]) == 0


def test_ids_that_the_verifier_does_not_know_are_never_proposed():
    (draft,) = engine(vocabulary_size=4).draft([Job(1, [1, 2], 8, WARM)])
    assert draft.block.tokens.max() < 4
    assert draft.block.support_ids.max() < 4


def test_a_draft_model_that_lacks_some_of_the_targets_ids_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="knows 40 token ids, the target's tokenizer has 41"):
        engine(vocabulary_size=41)


def unsure(**options):
    """An engine that has learnt that nothing stands."""
    found = engine(**options)
    for step in range(1200):
        found.learn(step % 12 / 12, stood=False)
    return found


@pytest.mark.parametrize(
    ("job", "length"),
    [
        (Job(1, [1, 2, 3], 5, GREEDY), 5),
        (Job(1, [1, 2, 3], 5, GREEDY, least_chance=0.5), 1),
        (Job(1, [1, 2, 3], 5, GREEDY, token_cost=0.2), 1),
    ],
    ids=["nothing is asked", "tokens must stand", "tokens cost time"],
)
def test_a_draft_ends_where_the_next_token_would_not_pay(job, length):
    assert len(unsure().draft([job])[0]) == length


def test_a_guess_made_earlier_is_cut_to_what_a_grant_asks_for():
    found = unsure()
    assert len(found.draft([Job(1, [1, 2, 3], 5, GREEDY)])[0]) == 5
    assert len(found.draft([Job(1, [1, 2, 3], 5, GREEDY, least_chance=0.5)])[0]) == 1


@pytest.mark.parametrize("sampling", [WARM, Sampling(0.7, 9, 0.9, 2**64 - 1)])
@torch.inference_mode()
def test_a_coupled_drafter_that_is_the_target_draws_the_targets_own_tokens(sampling):
    target = loaded()
    own = ModelEngine.load(
        loaded(), slots=1, max_context=64, support_size=VOCABULARY, vocabulary_size=VOCABULARY, coupled=True
    )
    prompt = [3, 1, 4, 1, 5]
    (draft,) = own.draft([Job(1, prompt, 12, sampling)])
    text = torch.tensor([[*prompt, *draft.block.tokens.tolist()]])
    logits = target.module(text).logits[0, len(prompt) - 1 :]
    verdicts = verify_coupled(logits, [Request(len(prompt), draft.block, sampling)])
    assert len(draft.block) == 12
    assert verdicts.accepted.tolist() == [12]
    other = Sampling(sampling.temperature, sampling.top_k, sampling.top_p, 99)
    assert verify_coupled(logits, [Request(len(prompt), draft.block, other)]).accepted.tolist() != [12]
