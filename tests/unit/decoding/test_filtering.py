"""Temperature, top-k and top-p give the distribution that sorting in float64 gives."""

import numpy as np
import pytest
import torch
from exact import distribution
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_runtime.decoding import filtering
from goodspeed_runtime.decoding.filtering import probabilities


def filtered(logits, rows):
    temperature, top_k, top_p = (np.array(column) for column in zip(*rows, strict=True))
    return probabilities(
        torch.as_tensor(logits), temperature.astype(float), top_k, top_p.astype(float)
    ).numpy()


parameters = st.tuples(
    st.sampled_from([0.0, 1e-30, 0.3, 1.0, 2.5]),
    st.integers(0, 45),
    st.sampled_from([1e-6, 0.3, 0.9, 0.999, 1.0]),
)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.lists(parameters, min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    candidates=st.sampled_from([2, 256]),
)
def test_every_row_has_the_distribution_of_its_own_parameters(rows, seed, candidates):
    logits = 4 * np.random.default_rng(seed).standard_normal((len(rows), 40)).astype(np.float32)
    before, filtering.NUCLEUS_CANDIDATES = filtering.NUCLEUS_CANDIDATES, candidates
    try:
        got = filtered(logits, rows)
    finally:
        filtering.NUCLEUS_CANDIDATES = before
    expected = np.concatenate([distribution(x, *row) for x, row in zip(logits, rows, strict=True)])
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_ties_at_the_kth_place_and_at_the_nucleus_edge_all_stay():
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]] * 2)
    kept = filtered(logits, [(1.0, 2, 1.0), (1.0, 0, 0.5)]) > 0
    assert kept.tolist() == [[True, True, True, True, False]] * 2


def test_temperature_zero_takes_the_first_of_equally_likely_tokens():
    assert filtered(torch.tensor([[1.0, 3.0, 3.0]]), [(0.0, 0, 1.0)]).tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e6])
def test_extreme_temperatures_stay_finite(temperature):
    got = filtered(torch.tensor([[100.0, -100.0, 99.0]]), [(temperature, 0, 1.0)])
    assert got.sum() == pytest.approx(1.0)
