import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.decoding.sampling import Sampling
from goodspeed_runtime.drafter.engine import Job
from goodspeed_runtime.drafter.lookup import LONGEST, SHORTEST, LookupEngine, NGramIndex

GREEDY = Sampling(temperature=0.0)
# Few distinct ids, so that runs do come again.
TEXTS = st.lists(st.integers(0, 3), max_size=60)


def occurs_before_the_end(tokens, run):
    return [end for end in range(len(run), len(tokens)) if list(tokens[end - len(run) : end]) == list(run)]


@given(TEXTS, st.integers(1, 8))
def test_a_proposal_continues_an_earlier_occurrence_of_the_longest_suffix_that_has_one(tokens, count):
    proposed = NGramIndex().propose(tokens, count)
    lengths = [
        length
        for length in range(SHORTEST, min(LONGEST, len(tokens)) + 1)
        if occurs_before_the_end(tokens, tokens[len(tokens) - length :])
    ]
    if not lengths:
        assert proposed == []
        return
    ends = occurs_before_the_end(tokens, tokens[len(tokens) - max(lengths) :])
    assert 1 <= len(proposed) <= count
    assert any(tokens[end : end + count] == proposed for end in ends)


@given(TEXTS, st.lists(st.integers(1, 5), min_size=1, max_size=10))
def test_growing_a_sequence_bit_by_bit_proposes_what_a_fresh_index_proposes(tokens, steps):
    grown, size = NGramIndex(), 0
    for step in steps:
        size = min(size + step, len(tokens))
        assert grown.propose(tokens[:size], 4) == NGramIndex().propose(tokens[:size], 4)


def test_sequences_do_not_see_each_other():
    engine = LookupEngine()
    repeats, fresh = Job(1, [5, 6, 7, 5, 6], 3, GREEDY), Job(2, [5, 6], 3, GREEDY)
    first, second = engine.draft([repeats, fresh])
    assert first.block.tokens.tolist() == [7, 5, 6]
    assert len(second) == 0


def test_every_q_is_a_point_mass():
    (draft,) = LookupEngine().draft([Job(1, [5, 6, 7, 5, 6], 2, GREEDY)])
    assert draft.block.tokens.tolist() == [7, 5]
    np.testing.assert_array_equal(draft.block.support_sizes, [0, 0])


def test_a_key_used_again_after_release_starts_afresh():
    engine = LookupEngine()
    engine.draft([Job(1, [5, 6, 7, 5, 6], 2, GREEDY)])
    engine.release(1)
    engine.release(1)
    (draft,) = engine.draft([Job(1, [5, 6], 2, GREEDY)])
    assert len(draft) == 0


def test_looking_prompts_up_imports_no_torch():
    code = "import sys, goodspeed_runtime.drafter.lookup; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
