import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_operator.local.probe import Exec, Grpc, HttpGet, Probe, Tally, TcpSocket


@pytest.mark.parametrize(
    ("manifest", "action"),
    [
        ({"httpGet": {"path": "/readyz", "port": "http"}}, HttpGet(8000, "/readyz")),
        ({"httpGet": {"port": 1, "scheme": "HTTPS"}}, HttpGet(1, "/", "https")),
        ({"grpc": {"port": 50051, "service": "x"}}, Grpc(50051, "x")),
        ({"grpc": {"port": 50051}}, Grpc(50051)),
        ({"tcpSocket": {"port": 7}}, TcpSocket(7)),
        ({"exec": {"command": ["true"]}}, Exec(("true",))),
    ],
)
def test_every_kind_of_probe_is_read(manifest, action):
    probe = Probe.parse(manifest, {"http": 8000})
    assert probe == Probe(
        action, initial_delay=0, period=10, timeout=1, success_threshold=1, failure_threshold=3
    )


@pytest.mark.parametrize(
    ("manifest", "message"),
    [({"httpGet": {"port": "web"}}, "names port 'web', the container has"), ({}, "no httpGet, grpc")],
)
def test_a_probe_that_asks_nothing_is_refused(manifest, message):
    with pytest.raises(ValueError, match=message):
        Probe.parse(manifest, {"http": 8000})


def tallied(probe, answers):
    tally = Tally()
    for answer in answers:
        tally = tally.after(answer, probe)
    return tally


def test_verdicts_come_at_the_thresholds_and_stay_between_them():
    probe = Probe(TcpSocket(1), success_threshold=2, failure_threshold=3)
    assert tallied(probe, [True]).verdict is None
    assert tallied(probe, [True, True]).verdict is True
    assert tallied(probe, [True, True, False, False]).verdict is True
    assert tallied(probe, [True, True, False, False, False]).verdict is False
    assert tallied(probe, [False, False, True, False, False]).verdict is None


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_the_verdict_is_that_of_the_last_run_long_enough(answers, successes, failures):
    probe = Probe(TcpSocket(1), success_threshold=successes, failure_threshold=failures)
    expected = None
    for end in range(1, len(answers) + 1):
        if all(answers[max(0, end - successes) : end]) and end >= successes:
            expected = True
        if not any(answers[max(0, end - failures) : end]) and end >= failures:
            expected = False
    assert tallied(probe, answers).verdict is expected


@given(st.floats(0, 60), st.floats(1, 60), st.integers(1, 100))
def test_an_eager_probe_is_as_patient(delay, period, threshold):
    probe = Probe(TcpSocket(1), initial_delay=delay, period=period, failure_threshold=threshold)
    eager = probe.eager(0.25)
    assert eager.initial_delay == 0
    assert eager.period * eager.failure_threshold == pytest.approx(delay + period * threshold, abs=0.26)
    assert math.isclose(eager.period, 0.25)


def test_a_probe_eager_enough_stays_as_it_is():
    probe = Probe(TcpSocket(1), period=0.1)
    assert probe.eager(0.25) is probe
