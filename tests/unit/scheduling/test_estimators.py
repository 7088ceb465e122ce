"""The estimators follow the paper, and fill the gaps it leaves."""

import numpy as np
import pytest

from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator, ClientRows, GoodputEstimator

ROW = np.array([0])


def acceptance(**options):
    estimator = AcceptanceEstimator(**options)
    estimator.add(0)
    return estimator


def test_acceptance_moves_by_its_step_towards_the_mean_ratio():
    estimator = acceptance(step=0.1, prior=0.6)
    estimator.update(ROW, np.array([3.2]), np.array([4]))
    assert estimator.estimates(ROW)[0] == pytest.approx(0.9 * 0.6 + 0.1 * 0.8)


def test_the_sequences_of_one_client_are_one_average_over_all_positions():
    estimator = acceptance(step=1.0)
    estimator.update(np.array([0, 0]), np.array([1.0, 0.0]), np.array([1, 3]))
    assert estimator.estimates(ROW)[0] == pytest.approx(0.25)


def idle(estimator, rounds):
    for _ in range(rounds):
        estimator.update(ROW, np.array([0.0]), np.array([0]))
    return float(estimator.estimates(ROW)[0])


def test_without_drafts_a_low_estimate_drifts_slowly_back_to_the_prior():
    estimator = acceptance(prior=0.6, idle_step=0.01)
    estimator.add(0, 0.02)
    assert idle(estimator, 1) == pytest.approx(0.02 + 0.01 * 0.58)
    assert idle(estimator, 1000) == pytest.approx(0.6, abs=1e-3)


def test_an_idle_step_of_zero_holds_the_estimate():
    estimator = acceptance(idle_step=0.0)
    estimator.add(0, 0.3)
    assert idle(estimator, 100) == 0.3


def test_with_decaying_steps_who_drafts_every_second_round_is_not_drawn_to_the_prior():
    estimator = acceptance(step=0.0, decay=0.9, prior=0.6)
    for _ in range(5000):
        estimator.update(ROW, np.array([0.24]), np.array([1]))
        idle(estimator, 1)
    assert estimator.estimates(ROW)[0] == pytest.approx(0.24, abs=1e-3)


def test_with_decaying_steps_an_idle_client_is_tried_again_ever_more_rarely():
    estimator = acceptance(step=0.0, decay=0.9, prior=0.6)
    estimator.add(0, 0.02)
    first = idle(estimator, 100) - 0.02
    later = idle(estimator, 900)
    assert 0 < idle(estimator, 100) - later < first / 10


def test_with_a_decay_the_estimate_tends_to_the_mean_of_all_ratios():
    generator = np.random.default_rng(0)
    estimator = acceptance(step=0.0, decay=1.0)
    for ratio in generator.uniform(0, 1, 4000):
        estimator.update(ROW, np.array([ratio]), np.array([1]))
    assert estimator.estimates(ROW)[0] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("decay", [0.5, 1.1, np.nan])
def test_a_decay_that_theorem_1_does_not_allow_is_refused(decay):
    for kind in (AcceptanceEstimator, GoodputEstimator):
        with pytest.raises(ValueError, match=r"decay is .* \(0\.5, 1\]"):
            kind(decay=decay)


def test_with_a_decay_goodput_is_the_mean_at_first_and_steps_no_less_than_its_step_later():
    estimator = GoodputEstimator(step=0.25, decay=1.0)
    estimator.add(0, 100.0)
    for tokens in (2, 4, 6):
        estimator.update(ROW, np.array([tokens]))
    assert estimator.estimates(ROW)[0] == pytest.approx(4.0)
    for tokens in (4, 4, 8):
        estimator.update(ROW, np.array([tokens]))
    assert estimator.estimates(ROW)[0] == pytest.approx(5.0)


@pytest.mark.parametrize(("ratio", "end"), [(5.0, 0.99), (0.0, 0.01)])
def test_the_estimate_never_leaves_its_bounds(ratio, end):
    estimator = acceptance(step=0.5)
    for _ in range(100):
        estimator.update(ROW, np.array([ratio]), np.array([5]))
    assert estimator.estimates(ROW)[0] == end


@pytest.mark.parametrize("ratio", [np.nan, -0.1, 4.1])
def test_a_sum_of_ratios_that_cannot_be_is_refused(ratio):
    estimator = acceptance()
    with pytest.raises(ValueError, match="ratio_sums"):
        estimator.update(ROW, np.array([ratio]), np.array([4]))
    assert estimator.estimates(ROW)[0] == 0.6


def test_goodput_is_smoothed_over_all_tokens_of_the_client():
    estimator = GoodputEstimator(step=0.5)
    estimator.add(0, 2.0)
    estimator.update(np.array([0, 0]), np.array([3, 5]))
    assert estimator.estimates(ROW)[0] == pytest.approx(0.5 * 2 + 0.5 * 8)


def test_a_new_client_starts_at_the_mean_of_those_present_not_of_those_departed():
    estimator = GoodputEstimator()
    estimator.add(0)
    assert estimator.estimates(ROW)[0] == 1
    estimator.add(1, 3.0)
    estimator.add(2, 100.0)
    estimator.remove(2)
    estimator.add(3)
    assert estimator.estimates(np.array([3]))[0] == pytest.approx(2.0)


def test_rows_grow_beyond_any_first_size_and_keep_what_they_hold():
    estimator = acceptance()
    for row in range(1, 500):
        estimator.add(row, row / 1000)
    np.testing.assert_allclose(estimator.estimates(np.arange(20, 500)), np.arange(20, 500) / 1000)


def test_the_row_of_a_departed_client_is_dealt_out_again_with_a_fresh_prior():
    rows, estimator = ClientRows(), AcceptanceEstimator(prior=0.6)
    assert [rows.add(name) for name in "abc"] == [0, 1, 2]
    estimator.add(rows["b"], 0.1)
    estimator.remove(rows.remove("b"))
    assert "b" not in rows
    assert rows.add("d") == 1
    estimator.add(rows["d"])
    assert estimator.estimates(np.array([1]))[0] == 0.6
    assert [rows.add("e"), len(rows)] == [3, 4]


def test_a_client_cannot_join_twice_nor_leave_unseen():
    rows = ClientRows()
    rows.add("a")
    with pytest.raises(KeyError, match="already"):
        rows.add("a")
    with pytest.raises(KeyError):
        rows.remove("b")
