"""What drafts, links and passes cost, learnt from what arrives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.scheduling.measured import DraftTimeEstimator, PassTimeEstimator
from goodspeed_runtime.scheduling.timing import VerificationCost

ROW = np.array([0])


def learnt(delay: float, draft: float, *, rounds: int = 200, noise: float = 0.1) -> DraftTimeEstimator:
    generator = np.random.default_rng(1)
    estimator = DraftTimeEstimator()
    estimator.add(0)
    for _ in range(rounds):
        drafted = generator.integers(0, 9, 1)
        seconds = (delay + drafted * draft) * generator.uniform(1 - noise, 1 + noise, 1)
        estimator.update(ROW, drafted, seconds)
    return estimator


@pytest.mark.parametrize(("delay", "draft"), [(0.002, 0.001), (0.08, 0.004), (0.02, 0.05), (0.3, 0.0)])
def test_a_links_delay_and_a_drafters_speed_are_told_apart(delay: float, draft: float) -> None:
    found_delay, found_draft = learnt(delay, draft).line(ROW)
    assert found_delay[0] == pytest.approx(delay, rel=0.2, abs=0.003)
    assert found_draft[0] == pytest.approx(draft, rel=0.2, abs=0.003)


def test_short_drafts_alone_do_not_make_long_ones_look_slow() -> None:
    """Else nobody would ever be asked for a longer one, and nobody would learn."""
    estimator = DraftTimeEstimator(prior_delay=0.001, prior_draft=0.001)
    estimator.add(0)
    for _ in range(40):
        estimator.update(ROW, np.array([1]), np.array([0.0004]))
    delay, draft = estimator.line(ROW)
    assert delay[0] + 4 * draft[0] < 0.002


def test_before_any_draft_the_priors_hold() -> None:
    estimator = DraftTimeEstimator(prior_delay=0.02, prior_draft=0.003)
    estimator.add(3)
    delay, draft = estimator.line(np.array([3]))
    assert (delay[0], draft[0]) == (pytest.approx(0.02), pytest.approx(0.003))


def test_a_single_pause_hardly_counts_and_a_lasting_one_is_believed() -> None:
    estimator = learnt(0.01, 0.002)
    estimator.update(ROW, np.array([4]), np.array([30.0]))
    assert estimator.line(ROW)[0][0] < 0.02
    for _ in range(100):
        estimator.update(ROW, np.array([4]), np.array([0.5]))
    delay, draft = estimator.line(ROW)
    assert delay[0] + 4 * draft[0] == pytest.approx(0.5, rel=0.1)


@given(
    st.lists(st.tuples(st.integers(0, 16), st.floats(0, 100)), max_size=30),
    st.integers(0, 16),
)
def test_no_line_predicts_a_negative_time(drafts: list[tuple[int, float]], length: int) -> None:
    estimator = DraftTimeEstimator()
    estimator.add(0)
    for drafted, seconds in drafts:
        estimator.update(ROW, np.array([drafted]), np.array([seconds]))
    delay, draft = estimator.line(ROW)
    assert np.isfinite([delay, draft]).all()
    assert delay[0] >= 0
    assert draft[0] >= 0
    assert delay[0] + length * draft[0] >= 0


def test_a_row_that_is_dealt_out_again_starts_anew() -> None:
    estimator = learnt(0.5, 0.1)
    estimator.add(0)
    assert estimator.line(ROW)[0][0] == pytest.approx(0.01)


def test_impossible_times_are_refused() -> None:
    estimator = learnt(0.1, 0.1, rounds=1)
    for seconds in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite and not negative"):
            estimator.update(ROW, np.array([1]), np.array([seconds]))


def test_a_curve_of_passes_is_learnt_from_noise() -> None:
    truth = VerificationCost.linear(0.02, 0.0005)
    generator = np.random.default_rng(2)
    estimator = PassTimeEstimator()
    for _ in range(2000):
        tokens = int(generator.integers(1, 65))
        estimator.update(tokens, truth.at(tokens) * float(generator.uniform(0.8, 1.2)))
    for tokens in (2, 8, 20, 60):
        assert estimator.cost().at(tokens) == pytest.approx(truth.at(tokens), rel=0.1)


def test_until_two_sizes_were_seen_the_prior_holds() -> None:
    prior = VerificationCost.linear(1.0, 0.1)
    estimator = PassTimeEstimator(prior=prior)
    estimator.update(8, 0.02)
    assert estimator.cost() == prior


def test_a_size_whose_first_pass_was_slow_is_not_thought_dear_for_long() -> None:
    estimator = PassTimeEstimator()
    estimator.update(8, 0.006)
    estimator.update(64, 2.0)
    for _ in range(12):
        estimator.update(64, 0.007)
    assert estimator.cost().at(64) == pytest.approx(0.007, rel=0.3)


def test_a_single_slow_pass_hardly_counts_and_lastingly_slow_ones_are_believed() -> None:
    estimator = PassTimeEstimator()
    for tokens in (8, 64):
        for _ in range(50):
            estimator.update(tokens, 0.006)
    estimator.update(64, 5.0)
    assert estimator.cost().at(64) < 0.007
    for _ in range(200):
        estimator.update(64, 0.05)
    assert estimator.cost().at(64) == pytest.approx(0.05, rel=0.1)


def test_a_drafter_whose_first_drafts_read_a_prompt_is_not_thought_slow_for_long() -> None:
    estimator = DraftTimeEstimator(prior_delay=0.002)
    estimator.add(0)
    for _ in range(5):
        estimator.update(ROW, np.array([4]), np.array([2.0]))
    for _ in range(12):
        estimator.update(ROW, np.array([4]), np.array([0.004]))
    delay, draft = estimator.line(ROW)
    assert delay[0] + 4 * draft[0] < 0.012


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-6, 10)), min_size=2, max_size=60))
def test_more_tokens_never_cost_less(passes: list[tuple[int, float]]) -> None:
    estimator = PassTimeEstimator()
    for tokens, seconds in passes:
        estimator.update(tokens, seconds)
    cost = estimator.cost()
    amounts = np.unique(np.geomspace(1, 6000, 200).round())
    costs = [cost.at(amount) for amount in amounts]
    assert (np.diff(costs) >= -1e-9).all()


def test_an_impossible_pass_is_refused() -> None:
    for tokens, seconds in ((0, 0.1), (4, 0.0), (4, np.nan)):
        with pytest.raises(ValueError, match="cannot be"):
            PassTimeEstimator().update(tokens, seconds)
