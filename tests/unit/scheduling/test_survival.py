"""Counts by position: they say where a draft stops being accepted, as far as there is evidence."""

import numpy as np
import pytest

from goodspeed_runtime.scheduling.survival import SurvivalEstimator

ROW = np.array([0])


def learnt(by_position, acceptance, rounds, drafted=None):
    longest = len(by_position)
    drafted = longest if drafted is None else drafted
    generator, estimator = np.random.default_rng(0), SurvivalEstimator(longest=longest)
    estimator.add(0)
    for _ in range(rounds):
        passes = generator.random(longest) < by_position
        accepted = int(np.logical_and.accumulate(passes)[:drafted].sum())
        estimator.update(ROW, np.array([accepted]), np.array([drafted]), np.array([acceptance]))
    return estimator


def test_without_evidence_survival_is_geometric():
    estimator = SurvivalEstimator(longest=4)
    estimator.add(0)
    survival = estimator.survival(ROW, np.array([0.6]))
    np.testing.assert_allclose(survival, [0.6 ** np.arange(1, 5)])


def test_with_many_rounds_it_is_what_was_counted_whatever_the_geometric_model_says():
    truth = np.array([0.9, 0.6, 0.9, 0.5])
    found = learnt(truth, 0.725, 2000).survival(ROW, np.array([0.725]))[0]
    np.testing.assert_allclose(found, np.cumprod(truth), atol=0.06)


def test_beyond_the_drafts_there_were_a_fall_goes_on():
    falling = learnt(np.array([0.9, 0.7, 0.5, 0.5, 0.5]), 0.8, 2000, drafted=2)
    steps = falling.survival(ROW, np.array([0.8]))[0]
    assert steps[2] / steps[1] < 0.62


def test_where_acceptance_rises_along_a_draft_the_geometric_model_stays():
    rising = learnt(np.array([0.5, 0.8, 0.9, 0.9, 0.9]), 0.8, 2000)
    np.testing.assert_allclose(rising.survival(ROW, np.array([0.8])), [0.8 ** np.arange(1, 6)])


def test_a_change_of_acceptance_moves_all_positions_at_once():
    estimator = learnt(np.array([0.9, 0.45]), 0.675, 2000)
    before, after = (estimator.survival(ROW, np.array([level]))[0] for level in (0.675, 0.3375))
    np.testing.assert_allclose(after, before / [2, 4])


def test_a_row_dealt_out_again_starts_without_evidence():
    estimator = learnt(np.array([0.9, 0.2]), 0.5, 500)
    estimator.add(0)
    np.testing.assert_allclose(estimator.survival(ROW, np.array([0.5])), [[0.5, 0.25]])


def test_survival_falls_along_every_draft_and_no_position_is_certain():
    estimator = learnt(np.ones(6), 0.9, 2000)
    survival = estimator.survival(ROW, np.array([0.99]))[0]
    assert (np.diff(survival) < 0).all()
    assert survival[0] <= 0.995


def test_a_longest_draft_below_one_is_refused():
    with pytest.raises(ValueError, match="longest is 0"):
        SurvivalEstimator(longest=0)
