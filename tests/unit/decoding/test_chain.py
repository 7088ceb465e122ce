"""Draft model, wire, target model and verification together write what the target alone would write."""

from itertools import product

import numpy as np
import pytest
import torch
from drafts import block_of, nothing, through_the_wire
from exact import FALSE_ALARM, distribution, p_value

from goodspeed_runtime.decoding.packed import PackedModel, Segment
from goodspeed_runtime.decoding.proposing import propose
from goodspeed_runtime.decoding.reference import Reference
from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.decoding.verification import Request, verify
from goodspeed_runtime.protocol.wire import DraftBlock
from tiny_llama import llama

VOCABULARY = 6
PROMPT = [1, 4, 2]
BATCH = 500


class Chain:
    """Speculative decoding of many sequences at once, the plain way."""

    def __init__(self, drafter="model"):
        self.target = PackedModel(llama(seed=1), slots=BATCH, max_context=32)
        self.drafter = PackedModel(llama(seed=2, layers=1), slots=BATCH, max_context=32)
        self.lookup = drafter == "lookup"
        self.rounds = 0

    def draft(self, texts, samplings, length):
        """Blocks for all sequences; each drafter pass feeds what its cache lacks."""
        if self.lookup:
            return [through_the_wire(DraftBlock.point_masses((text * 2)[1 : 1 + length])) for text in texts]
        pending = [list(text[self.drafter.lengths[slot] :]) for slot, text in enumerate(texts)]
        proposals = []
        for j in range(length):
            segments = [
                Segment(slot, self.drafter.lengths[slot], tokens, 1) for slot, tokens in enumerate(pending)
            ]
            starts = [len(text) for text in texts]
            positions = [start + j for start in starts]
            proposals.append(
                propose(self.drafter.forward(segments), samplings, positions, starts, support_size=4)
            )
            pending = [[int(token)] for token in proposals[-1].tokens]
        return [block_of(proposals, i) if length else nothing() for i in range(len(texts))]

    def write(self, samplings, count, lengths):
        """Texts of at least `count` tokens after the prompt; draft lengths vary by round."""
        texts = [list(PROMPT) for _ in samplings]
        for model in (self.target, self.drafter):
            for slot in range(len(texts)):
                model.lengths[slot] = 0
        turn = 0
        while any(len(text) < len(PROMPT) + count for text in texts):
            blocks = self.draft(texts, samplings, lengths[turn % len(lengths)])
            segments = []
            for slot, (text, block) in enumerate(zip(texts, blocks, strict=True)):
                held = self.target.lengths[slot]
                segments.append(Segment(slot, held, [*text[held:], *block.tokens.tolist()], len(block) + 1))
            requests = [
                Request(len(text), block, s) for text, block, s in zip(texts, blocks, samplings, strict=True)
            ]
            verdicts = verify(self.target.forward(segments), requests)
            for slot, (text, block) in enumerate(zip(texts, blocks, strict=True)):
                accepted = verdicts.accepted[slot]
                self.target.lengths[slot] = len(text) + accepted
                self.drafter.lengths[slot] = min(self.drafter.lengths[slot], len(text) + accepted)
                text += [*block.tokens[:accepted].tolist(), int(verdicts.next_tokens[slot])]
            turn += 1
        self.rounds = turn
        return [text[len(PROMPT) :][:count] for text in texts]


@torch.inference_mode()
def exact_joint(parameters, count):
    """Probability of every continuation of `count` tokens, by plain passes over all prefixes."""
    plain = llama(seed=1).module.double()
    joint = np.ones(1)
    for length in range(count):
        prefixes = [[*PROMPT, *rest] for rest in product(range(VOCABULARY), repeat=length)]
        rows = distribution(plain(torch.tensor(prefixes)).logits[:, -1].numpy(), **parameters)
        joint = (joint[:, None] * rows).ravel()
    return joint


@pytest.mark.parametrize("drafter", ["model", pytest.param("lookup", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({}, id="temperature 1"),
        pytest.param({"temperature": 0.8, "top_k": 4}, id="top-k", marks=pytest.mark.slow),
        pytest.param({"top_p": 0.9}, id="top-p", marks=pytest.mark.slow),
    ],
)
def test_the_joint_distribution_of_a_whole_text_is_the_targets(drafter, parameters):
    count, texts = 3, []
    chain = Chain(drafter)
    for batch in range(20):
        samplings = [Sampling(**parameters, seed=batch * BATCH + i) for i in range(BATCH)]
        texts += chain.write(samplings, count, lengths=[2, 0, 3, 1])
    cells = np.array(texts) @ VOCABULARY ** np.arange(count)[::-1]
    counts = np.bincount(cells, minlength=VOCABULARY**count)
    assert p_value(counts, exact_joint(parameters, count)) > FALSE_ALARM


@pytest.mark.parametrize("drafter", ["model", "lookup"])
def test_at_temperature_zero_every_text_is_the_targets_own(drafter):
    chain = Chain(drafter)
    texts = chain.write([Sampling(0.0, seed=i) for i in range(7)], 20, lengths=[4, 1, 6, 0])
    expected = Reference(llama(seed=1)).greedy(PROMPT, 20)
    assert texts == [expected] * 7
    assert chain.rounds < 20
