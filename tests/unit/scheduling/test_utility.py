"""α-fair utilities."""

import numpy as np
import pytest

from goodspeed_runtime.scheduling.utility import AlphaFair

X = np.array([0.5, 1.0, 2.0, 7.0])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0, 8.0])
def test_the_gradient_is_the_slope_of_the_value(alpha):
    utility, step = AlphaFair(alpha), 1e-6
    slope = (utility.value(X + step) - utility.value(X - step)) / (2 * step)
    np.testing.assert_allclose(utility.gradient(X), slope, rtol=1e-5)


def test_an_idle_client_has_a_finite_gradient():
    assert AlphaFair(1.0, smallest=0.01).gradient(np.zeros(1))[0] == pytest.approx(100)


@pytest.mark.parametrize("alpha", [-1.0, np.nan, np.inf])
def test_a_degree_of_fairness_that_means_nothing_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        AlphaFair(alpha)
