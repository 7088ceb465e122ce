"""Matrices of integers come back as they were, and stand for the weights that their file stores."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_runtime.models.integers import (
    GROUP,
    Integers,
    joined,
    of_gguf,
    of_rows,
    read_integers,
    write_integers,
)


@st.composite
def matrices(draw):
    rows, groups = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    scales = rng.normal(size=(rows, groups)).astype(np.float16)
    if draw(st.booleans()):
        return Integers(rng.integers(0, 16, (rows, groups * GROUP), np.int8), scales, scales[::-1].copy())
    return Integers(rng.integers(-127, 128, (rows, groups * GROUP), np.int8), scales)


def same(one, other):
    return all(
        (a is None) == (b is None) and (a is None or np.array_equal(a, b))
        for a, b in ((one.values, other.values), (one.scales, other.scales), (one.minima, other.minima))
    )


@settings(max_examples=30, deadline=None)
@given(written=st.dictionaries(st.sampled_from(["a", "b.weight", "c.d"]), matrices(), min_size=1))
def test_what_is_written_is_read(tmp_path_factory, written):
    file = tmp_path_factory.mktemp("integers") / "integers.npz"
    write_integers(file, written)
    found = read_integers(file)
    assert found.keys() == written.keys()
    assert all(same(found[name], matrix) for name, matrix in written.items())
    name = next(iter(written))
    assert read_integers(file, only=name).keys() == {name}


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_they_are_the_weights_that_ggufs_own_code_finds(kind):
    values = np.random.default_rng(0).normal(size=(7, 3 * GROUP)).astype(np.float32)
    number = gguf.GGMLQuantizationType[kind]
    data = gguf.quants.quantize(values, number)
    found = of_gguf(data, kind)
    assert found is not None
    assert np.array_equal(found.weights(), gguf.quants.dequantize(data, number))


def test_other_kinds_are_not_taken_for_integers():
    assert of_gguf(np.zeros((2, 64), np.uint8), "F16") is None


def test_rows_with_one_scale_become_groups_with_the_same():
    values = np.arange(-64, 64, dtype=np.int8).reshape(2, 64)
    found = of_rows(values, np.array([0.5, 2.0], np.float16))
    assert np.array_equal(found.weights(), values * np.array([[0.5], [2.0]], np.float32))


def test_matrices_of_different_kinds_are_not_joined():
    one = Integers(np.zeros((1, GROUP), np.int8), np.zeros((1, 1), np.float16))
    other = Integers(one.values, one.scales, one.scales)
    assert joined([one, other]) is None
    both = joined([other, other])
    assert both is not None
    assert both.weights().shape == (2, GROUP)
