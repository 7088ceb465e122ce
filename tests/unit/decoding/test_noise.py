"""The noise is Philox, the same on every device, and independent across its keys."""

import numpy as np
import pytest
import torch
from exact import FALSE_ALARM
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, pearsonr

from goodspeed_runtime.decoding.noise import ACCEPT, CHOOSE, DRAFT, philox, uniform, uniform_tensor


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers of the algorithm's authors
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_generator_gives_the_published_answers(counter, key, expected):
    def words(text):
        return tuple(np.array([int(word, 16)]) for word in text.split())

    assert [f"{int(word[0]):08x}" for word in philox(words(counter), words(key))] == expected.split()


@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    position=st.integers(0, 2**31),
    stream=st.sampled_from([ACCEPT, CHOOSE, DRAFT]),
    start=st.integers(0, 2**31),
)
def test_numpy_and_torch_agree_bit_for_bit(seeds, position, stream, start):
    array = np.array(seeds, dtype=np.uint64)
    host = uniform(array, position, stream, start=start)
    place, origin = torch.tensor(position), torch.tensor(start)
    device = uniform_tensor(torch.from_numpy(array.view(np.int64)), place, stream, origin)
    assert (host == device.numpy()).all()
    assert ((host >= 0) & (host < 1)).all()
    assert uniform(seeds[0], position, stream, start=start)[0] == host[0]  # whatever is drawn beside it


def test_draws_are_uniform():
    assert kstest(uniform(42, np.arange(100_000), ACCEPT), "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    "other",
    [
        {"seeds": 43},
        {"seeds": 42 + (1 << 32)},
        {"positions": np.arange(1, 100_001)},
        {"stream": CHOOSE},
        {"start": 1},
    ],
)
def test_draws_that_differ_in_any_part_of_the_key_are_independent(other):
    key = {"seeds": 42, "positions": np.arange(100_000), "stream": ACCEPT, "start": 0}
    assert pearsonr(uniform(**key), uniform(**key | other)).pvalue > FALSE_ALARM
