"""Load on one cell only: the slow loop spreads it by what Prometheus shows; a sick one harms nothing."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from server import Prometheus, UpFleet, eventually

pytestmark = [pytest.mark.processes, pytest.mark.slow]

INTERVAL = 6.0


@pytest.fixture
def begin(two_by_eight, tmp_path):
    """Starts a fleet that rebalances itself by what a Prometheus knows."""
    started = []

    def start(verifier=None, **rebalance):
        prometheus = Prometheus(tmp_path / "prometheus")
        spec = {"mode": "Auto", "interval": f"{INTERVAL:g}s", "cooldown": "0s"} | rebalance
        more = {} if verifier is None else {"verifier": {"replicas": 2, **verifier}}
        fleet = UpFleet(tmp_path, two_by_eight(rebalance=spec, **more), prometheus=prometheus.url)
        started.extend((prometheus, fleet))
        fleet.start()
        prometheus.scrape(fleet.urls)
        prometheus.start()
        eventually(lambda: len(prometheus.values("up == 1")) == 10)
        return fleet, prometheus

    yield start
    for each in started:
        each.stop()


def attached(fleet):
    """The cell of each drafter, as the verifiers' metrics say."""
    found = {}
    for cell, url in fleet.cells.items():
        for line in httpx.get(f"{url}/metrics", timeout=20).text.splitlines():
            if line.startswith("goodspeed_drafter_acceptance_ratio{"):
                found[line.partition('drafter="')[2].partition('"')[0]] = cell
    return found


def moves(fleet):
    return [each for each in fleet.plain["decisions"] if each["action"] == "Move"]


def of_first_cell(fleet):
    """All drafters are in a cell; those of the first."""
    cells = eventually(lambda: len(found := attached(fleet)) == 8 and found)
    first = min(fleet.cells)
    return sorted(name for name, cell in cells.items() if cell == first)


def prices(prometheus, seconds):
    return prometheus.values(
        f"rate(goodspeed_verifier_round_shadow_price_sum[{seconds}s])"
        f" / (rate(goodspeed_verifier_round_shadow_price_count[{seconds}s]) > 0)"
    )


def test_load_on_one_cell_is_spread_within_three_intervals(begin, load, record_property):
    fleet, prometheus = begin()
    names = of_first_cell(fleet)
    assert len(names) == 4
    with load(fleet, names) as users:
        eventually(lambda: all(users.received.values()), 60)
        loaded = time.monotonic()
        eventually(lambda: moves(fleet), 60, every=0.5)

        def equal():
            found = prices(prometheus, 5)
            return len(found) == 2 and min(found) > 0.8 * max(found) and found

        found = eventually(equal, max(1.0, loaded + 4 * INTERVAL - time.monotonic()), every=0.5)
        record_property("seconds_to_equal_prices", round(time.monotonic() - loaded, 1))
        record_property("prices", [round(price, 4) for price in found])
        done = eventually(
            lambda: (batch := moves(fleet)) and all("actualGain" in each for each in batch) and batch,
            4 * INTERVAL,
        )
    assert users.failed == []
    expected = sum(each["expectedGain"] for each in done)
    actual = sum(each["actualGain"] for each in done)
    record_property("expected_gain", expected)
    record_property("actual_gain", actual)
    assert {(each["reason"], each["applied"]) for each in done} == {("PriceGap", True)}
    assert expected > 0
    assert actual >= expected / 2
    cells = attached(fleet)
    assert sorted(list(map(cells.get, names)).count(cell) for cell in fleet.cells) == [2, 2]


def goodspeed(*arguments):
    program = Path(sys.executable).parent / "goodspeed"
    done = subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_recommend_plan_and_top_tell_what_should_be_done_and_move_nobody(begin, load):
    fleet, prometheus = begin(mode="Recommend")
    names = of_first_cell(fleet)
    with load(fleet, names) as users:
        found = eventually(lambda: moves(fleet), 60)
        where = f"--state-dir={fleet.state}"
        for more in ([], [f"--prometheus={prometheus.url}"]):
            planned = goodspeed("plan", f"--filename={fleet.file}", "--over=6", where, *more)
            lines = [line for line in planned.splitlines() if "Move" in line]
            assert lines, planned
            assert all("PriceGap" in line and any(name in line for name in names) for line in lines)
        seen = goodspeed("top", "fleet", "--once", where)
        assert all(name in seen for name in (*fleet.cells, *fleet.drafters))
        assert "not applied" in seen
        assert of_first_cell(fleet) == names
    assert users.failed == []
    assert not any(each["applied"] for each in found)


class Garbage(http.server.BaseHTTPRequestHandler):
    """In Prometheus' place, with whatever `answer` says."""

    answer = b""
    status = 200
    delay = 0.0

    def do_POST(self):
        time.sleep(self.delay)
        with contextlib.suppress(OSError):
            self.send_response(self.status)
            self.end_headers()
            self.wfile.write(self.answer)

    def log_message(self, *_):
        pass


def test_a_budget_follows_the_latency_target_while_answers_go_on(begin, load):
    """No round of these servers takes as little as a millisecond, so the budget shrinks step by step."""
    fleet, prometheus = begin(verifier={"budgetTokens": "auto", "latencyTarget": "1ms"})
    with load(fleet, of_first_cell(fleet)) as users:
        eventually(lambda: min(prometheus.values("goodspeed_verifier_budget_tokens")) <= 16, 8 * INTERVAL)
    assert users.failed == []
    budgets = [each for each in fleet.plain["decisions"] if each["action"] == "Budget"]
    assert {(each["reason"], each["applied"]) for each in budgets} == {("LatencyTarget", True)}
    assert all(int(each["source"]) > int(each["destination"]) for each in budgets)
    assert all(limit == 256 for limit in prometheus.values("goodspeed_verifier_budget_limit_tokens"))


def vector(*series):
    return b'{"status":"success","data":{"resultType":"vector","result":[%s]}}' % b",".join(series)


NAN = vector(b'{"metric":{"cell":"x"},"value":[1,"NaN"]}')
SCALAR = b'{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}'
STARTING = b'{"status":"error","errorType":"unavailable","error":"starting"}'
SICK = {
    "html": (200, b"<html>welcome</html>", 0.0, "PrometheusError"),
    "half a json": (200, b'{"status": "succ', 0.0, "PrometheusError"),
    "an error": (503, STARTING, 0.0, "PrometheusError"),
    "NaN only": (200, NAN, 0.0, "MetricsMissing"),
    "a scalar": (200, SCALAR, 0.0, "PrometheusError"),
    "nothing": (200, vector(), 0.0, "MetricsMissing"),
    "silence": (200, vector(), 20.0, "PrometheusError"),
}


def test_a_sick_prometheus_at_any_moment_of_a_move_harms_nothing(begin, load):
    """Stopped, garbage in its place, empty, half blind: the condition says so and nobody moves."""
    fleet, prometheus = begin()
    names = of_first_cell(fleet)
    address = prometheus.url.removeprefix("http://").split(":")

    def reason(wanted):
        return lambda: fleet.plain["metrics"]["reason"] == wanted

    with load(fleet, names) as users:
        eventually(lambda: moves(fleet), 60, every=0.1)
        prometheus.stop(forget=True)  # the drafters are on their way at this moment
        eventually(reason("PrometheusError"), 3 * INTERVAL)
        placed = attached(fleet)
        for status, answer, delay, wanted in SICK.values():
            handler = type("Sick", (Garbage,), {"status": status, "answer": answer, "delay": delay})
            server = http.server.ThreadingHTTPServer((address[0], int(address[1])), handler)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                # Twice around, so that the reason seen is this one's.
                time.sleep(INTERVAL)
                eventually(reason(wanted), 3 * INTERVAL)
            finally:
                server.shutdown()
                server.server_close()
        before = dict(users.received)
        prometheus.start()  # empty: it knows nothing of what was
        eventually(reason("MetricsFresh"), 5 * INTERVAL)
        prometheus.scrape(fleet.urls[1:])  # it lacks a verifier, and with it half the drafters
        eventually(reason("MetricsMissing"), 5 * INTERVAL)
        prometheus.scrape(fleet.urls)
        eventually(reason("MetricsFresh"), 5 * INTERVAL)
        assert attached(fleet) == placed
        eventually(lambda: all(users.received[name] > before[name] for name in names), 60)
    assert users.failed == []
