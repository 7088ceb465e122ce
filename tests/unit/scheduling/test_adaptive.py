"""The adaptive estimator: quick after a jump of acceptance, quiet otherwise."""

import numpy as np
import pytest

from goodspeed_runtime.scheduling.adaptive import AdaptiveAcceptanceEstimator
from goodspeed_runtime.scheduling.estimators import AcceptanceEstimator

ROW = np.array([0])


def track(estimator, acceptance, drafted=4, seed=0):
    """The estimates after each round, with ratios U^c whose mean is the acceptance of that round."""
    generator = np.random.default_rng(seed)
    estimator.add(0)
    found = []
    for alpha in acceptance:
        ratios = generator.random(drafted) ** (1 / alpha - 1)
        estimator.update(ROW, np.array([ratios.sum()]), np.array([drafted]))
        found.append(float(estimator.estimates(ROW)[0]))
    return np.array(found)


def error(found, truth):
    return float(np.sqrt(((found - truth) ** 2).mean()))


@pytest.mark.parametrize("step", [0.02, 0.05, 0.1, 0.2, 0.4])
def test_it_tracks_domains_that_change_better_than_any_fixed_step(step):
    truth = np.repeat(np.random.default_rng(1).uniform(0.2, 0.95, 40), 150)
    adaptive = error(track(AdaptiveAcceptanceEstimator(), truth), truth)
    assert adaptive < 0.8 * error(track(AcceptanceEstimator(step=step), truth), truth)


def test_after_a_jump_it_is_there_within_fifteen_rounds():
    truth = np.repeat([0.3, 0.9], 500)
    assert track(AdaptiveAcceptanceEstimator(), truth)[515:].min() > 0.8


def test_while_nothing_changes_it_narrows_like_a_mean():
    truth = np.full(2000, 0.7)
    quiet = track(AdaptiveAcceptanceEstimator(), truth)[1000:]
    assert error(quiet, 0.7) < 0.5 * error(track(AcceptanceEstimator(step=0.1), truth)[1000:], 0.7)


def test_who_was_thought_poor_and_drafts_nothing_returns_to_the_prior():
    estimator = AdaptiveAcceptanceEstimator(prior=0.6)
    track(estimator, np.full(200, 0.05))
    assert estimator.estimates(ROW)[0] < 0.1
    for _ in range(200):
        estimator.update(ROW, np.array([0.0]), np.array([0]))
    assert estimator.estimates(ROW)[0] > 0.5


def test_a_rarer_jump_is_noticed_later_and_disturbs_less():
    jump = np.repeat([0.3, 0.9], 300)
    often, rarely = (track(AdaptiveAcceptanceEstimator(hazard=hazard), jump) for hazard in (0.1, 1e-9))
    assert often[300:303].mean() > rarely[300:303].mean() + 0.05
    still = np.full(2000, 0.7)
    often, rarely = (track(AdaptiveAcceptanceEstimator(hazard=hazard), still) for hazard in (0.1, 1e-9))
    assert error(rarely[500:], 0.7) < 0.5 * error(often[500:], 0.7)


def test_it_starts_at_the_prior_or_near_what_it_is_given():
    estimator = AdaptiveAcceptanceEstimator(prior=0.7)
    estimator.add(0)
    estimator.add(1, 0.3)
    nothing = np.array([0.0, 0.0]), np.array([0, 0])
    assert estimator.estimates(np.array([0, 1])) == pytest.approx([0.7, 0.3])
    estimator.update(np.array([0, 1]), *nothing)
    assert estimator.estimates(np.array([0, 1])) == pytest.approx([0.7, 0.32], abs=0.03)


def test_estimates_stay_within_bounds_whatever_comes():
    for alpha in (0.001, 0.999):
        found = track(AdaptiveAcceptanceEstimator(), np.full(500, alpha))
        assert ((found >= 0.01) & (found <= 0.99)).all()


@pytest.mark.parametrize(("option", "value"), [("hazard", 0.0), ("hazard", 1.0), ("prior", 1.0)])
def test_options_that_cannot_be_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} is {value}"):
        AdaptiveAcceptanceEstimator(**{option: value})
