from hypothesis import given
from hypothesis import strategies as st

from goodspeed_operator.local.backoff import Backoff


def test_delays_double_up_to_the_limit():
    backoff = Backoff(first=0.5, limit=3.0)
    assert [backoff.delay(crashes) for crashes in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_run_that_lasted_forgives_the_crashes_before_it():
    backoff = Backoff(lasting=60)
    assert backoff.crashes(7, ran=59.9) == 8
    assert backoff.crashes(7, ran=60.0) == 1


@given(st.integers(1, 10**6))
def test_no_number_of_crashes_breaks_the_bounds(crashes):
    backoff = Backoff()
    assert backoff.first <= backoff.delay(crashes) <= backoff.limit
