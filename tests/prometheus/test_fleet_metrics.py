"""A real Prometheus scrapes a fleet of two verifiers and eight drafters started from a GoodSpeedCluster."""

import json
import re

import httpx
import pytest
from server import ROOT, RULES, Prometheus, UpFleet, eventually

pytestmark = [pytest.mark.processes, pytest.mark.slow]

DASHBOARDS = ROOT / "charts/goodspeed/files/dashboards"
VARIABLES = {"$cluster": "fleet", "$cell": ".*", "$pool": ".*", "$drafter": ".*"}


def queries(name):
    """The dashboard's queries, its variables as Grafana would fill them in."""
    dashboard = json.loads((DASHBOARDS / f"{name}.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            for variable, value in VARIABLES.items():
                text = text.replace(variable, value)
            yield panel["title"], text


@pytest.fixture(scope="module")
def scraped(two_by_eight, load, tmp_path_factory):
    """Fleet and Prometheus, while every drafter has some load."""
    folder = tmp_path_factory.mktemp("scraped")
    spec = {"rebalance": {"mode": "Recommend", "interval": "10s"}, "tenants": [{"name": "gold", "weight": 2}]}
    fleet = UpFleet(folder, two_by_eight(**spec))
    prometheus = Prometheus(folder / "prometheus", rules=RULES)
    try:
        fleet.start()
        prometheus.scrape(fleet.urls)
        prometheus.start()
        eventually(lambda: len(prometheus.values("up == 1")) == 10)
        with load(fleet, fleet.drafters, tokens=200) as users:
            eventually(lambda: all(count >= 600 for count in users.received.values()), 120)
            for url in fleet.drafters.values():
                # One request that is refused, and errors of their own kind.
                httpx.post(f"{url}/v1/completions", json={"model": "other", "prompt": "x"}, timeout=20)
            yield fleet, prometheus, users
        assert users.failed == []
    finally:
        prometheus.stop()
        fleet.stop()


def test_all_pods_are_scraped_and_every_query_of_the_dashboards_returns_data(scraped):
    _, prometheus, _ = scraped
    empty = []

    def all_answered():
        empty.clear()
        for name in ("fleet", "cell", "drafter"):
            for panel, text in queries(name):
                if not prometheus.query(text):
                    empty.append(f"{name}, {panel}: {text}")
        return not empty

    try:
        eventually(all_answered, 60, every=3)
    except AssertionError as error:
        raise AssertionError("\n".join(empty)) from error


def test_every_recording_rule_has_data(scraped):
    _, prometheus, _ = scraped
    names = re.findall(r"record: (\S+)", RULES.read_text())
    assert len(names) == 12
    eventually(lambda: all(prometheus.query(f'{name}{{cluster="fleet"}}') for name in names), 60, every=2)


def test_acceptance_and_fairness_are_ratios(scraped):
    _, prometheus, _ = scraped
    for name in ("drafter:goodspeed_acceptance:ratio5m", "cluster:goodspeed_jain_index:goodput1m"):
        values = prometheus.values(name)
        assert values
        assert all(0 < value <= 1 for value in values), name


def test_no_label_has_more_values_than_there_are_things(scraped):
    _, prometheus, _ = scraped
    series = httpx.get(
        f"{prometheus.url}/api/v1/series", params={"match[]": '{__name__=~"goodspeed_.*"}'}, timeout=20
    ).json()["data"]
    values = {}
    for labels in series:
        for name, value in labels.items():
            values.setdefault(name, set()).add(value)
    assert len(values["drafter"]) == len(values["pool"]) == 8
    assert len(values["cell"]) == 2
    assert values["tenant"] == {"gold"}
    assert values["result"] == {"kept", "dropped"}
    assert values["source"] <= {"computed", "shared"}
    assert len(values["position"]) <= 16
    assert len(values["size"]) <= 16
    assert set(values) == {
        "__name__", "cell", "cluster", "code", "drafter", "instance", "job", "le", "phase", "pool",
        "position", "result", "size", "source", "tenant",
    }  # fmt: skip
