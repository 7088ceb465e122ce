"""The operator's own loop over real servers: it sees load on one cell, moves drafters, and says what it did.

The Kubernetes API is a mock that stores objects; verifiers and drafters are real processes whose
addresses stand in its pods, and Prometheus is real.
"""

import asyncio
import contextlib
import json
import signal
import threading

import httpx
import pytest
from aiohttp import web
from server import Prometheus, free_port
from test_fleet_metrics import queries

from goodspeed_operator.api.loading import parse_cluster
from goodspeed_operator.cluster.kinds import CLUSTER, POD, kind_of
from goodspeed_operator.handlers.controller import Controller
from goodspeed_operator.handlers.health import Health, application
from goodspeed_operator.handlers.metrics import OperatorMetrics
from goodspeed_operator.resources.fleet import desired
from processes import GRPC_PORT, Fleet
from unit.handlers.mock_api import MockAPI, serving

pytestmark = [pytest.mark.processes, pytest.mark.slow]

PATH = CLUSTER.path("models", "fleet")


class ListingAPI(MockAPI):
    """Also lists what it stores."""

    async def _answer(self, request):
        path = request.url.path
        kinds = path.rpartition("/")[2]
        if str(request.method.value) == "GET" and path not in self.objects and kinds != "events":
            place, _, plural = path.rpartition("/")
            items = [
                body
                for stored, body in self.objects.items()
                if stored.rpartition("/")[0].endswith(f"/{plural}") and stored.startswith(place)
            ]
            if items or not plural[0].isupper():
                return 200, {"items": items, "metadata": {}}
        return await super()._answer(request)


@pytest.fixture
def pods(folder, tmp_path, request):
    """Two verifiers; four drafters that begin in the first and know of the second."""
    own = Fleet(folder, tmp_path)
    model = own.uri("target")
    more, options = getattr(request, "param", ({}, {}))
    resource = {
        "apiVersion": CLUSTER.api_version,
        "kind": CLUSTER.kind,
        "metadata": {"name": "fleet", "namespace": "models", "uid": "u-1", "generation": 1},
        "spec": {
            "target": {"model": model, "maxContextTokens": 512},
            "verifier": {"replicas": 2, "budgetTokens": 8},
            "drafters": [{"name": "p", "model": model, "replicas": 4, **more}],
            "rebalance": {
                "mode": "Auto",
                "interval": "5s",
                "cooldown": "0s",
                "caps": {"movesPerInterval": 2},
            },
        },
    }
    manifests = desired(parse_cluster(resource))
    workload = {each["kind"]: each for each in manifests if each["kind"] in {"StatefulSet", "Deployment"}}
    cells = [f"{workload['StatefulSet']['metadata']['name']}-{index}" for index in range(2)]
    drafters = [f"fleet-p-{index}" for index in range(4)]
    try:
        first, second = (own.verifier(name, cluster="fleet", budget_tokens=8) for name in cells)
        own.wait()
        named = f"{cells[1]}={second.address}:{GRPC_PORT}"
        for name in drafters:
            own.drafter(name, model, first, pool="p", cluster="fleet", cells=named, **options)
        own.wait()
        stored = [resource]
        for each, names in ((workload["StatefulSet"], cells), (workload["Deployment"], drafters)):
            count = len(names)
            status = {"replicas": count, "updatedReplicas": count, "readyReplicas": count}
            stored.append({**each, "status": status})
            for name in names:
                labels = each["spec"]["template"]["metadata"]["labels"]
                ready = {
                    "podIP": own[name].address,
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "phase": "Running",
                }
                head = {"name": name, "namespace": "models", "labels": labels}
                stored.append({"apiVersion": "v1", "kind": "Pod", "metadata": head, "status": ready})
        yield own, cells, drafters, stored
    finally:
        own.stop()


async def until(condition, seconds=60.0):
    async with asyncio.timeout(seconds):
        while not (found := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return found


def keep_busy(own, names, stop, failed):
    def ask(name):
        while not stop.is_set():
            try:
                answer = own[name].complete(max_tokens=300, ignore_eos=True, temperature=1)
                assert answer.json()["usage"]["completion_tokens"] == 300
            except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                failed.append((name, repr(error)))

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    return threads


@contextlib.asynccontextmanager
async def operating(mock, metrics):
    """The controller over the mock, until the context is left."""
    async with serving(mock) as api:
        controller = Controller(
            api,
            namespaces=("models",),
            image="goodspeed/runtime:test",
            workers=2,
            pod_monitors=False,
            metrics=metrics,
            health=Health(),
        )
        running = asyncio.create_task(controller.run())
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def busy(own, names):
    """Requests to these drafters, none of which may fail."""
    stop, failed = threading.Event(), []
    threads = keep_busy(own, names, stop, failed)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
    assert failed == []


def stored_in(stored):
    mock = ListingAPI()
    for body in stored:
        kind = CLUSTER if body["kind"] == CLUSTER.kind else POD if body["kind"] == "Pod" else kind_of(body)
        mock.put(kind.path("models", body["metadata"]["name"]), body)
    return mock


async def test_the_operator_moves_drafters_and_says_so(pods, tmp_path):
    own, cells, drafters, stored = pods
    mock, metrics = stored_in(stored), OperatorMetrics()
    runner = web.AppRunner(application(Health(), metrics.registry))
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    prometheus = Prometheus(tmp_path / "prometheus", [f"http://127.0.0.1:{port}"])
    await asyncio.to_thread(prometheus.start)
    metrics.leading.set(1)
    try:
        async with busy(own, drafters), operating(mock, metrics) as running:

            def decisions():
                assert not running.done(), running.exception()
                return mock.objects[PATH].get("status", {}).get("decisions", [])

            await until(lambda: [each for each in decisions() if "actualGain" in each])
            status = mock.objects[PATH]["status"]
            moved = [each for each in status["decisions"] if each["action"] == "Move"]
            assert {(each["source"], each["destination"]) for each in moved} == {tuple(cells)}
            assert all(each["applied"] and each["reason"] == "PriceGap" for each in moved)
            there = own[cells[1]].get("/metrics").text
            assert all(f'drafter="{each["subject"]}"' in there for each in moved)
            conditions = {each["type"]: each for each in status["conditions"]}
            assert conditions["MetricsAvailable"]["reason"] == "MetricsFresh"
            assert conditions["Rebalancing"]["reason"] in {"Applying", "Holding"}
            posted = [body for body in mock.bodies if body.get("kind") == "Event"]
            events = [body for body in posted if body["reason"] == "Move"]
            assert len(events) == 1
            assert events[0]["message"].startswith("2 drafters (")
            assert all(each["subject"] in events[0]["message"] for each in moved)
            await until(lambda: not [text for _, text in queries("operator") if not prometheus.query(text)])
            # A cell that shows no metrics: nothing is moved, and the condition says why.
            own[cells[1]].process.send_signal(signal.SIGSTOP)
            await until(lambda: "MetricsMissing" in json.dumps(mock.objects[PATH]["status"]["conditions"]))
            own[cells[1]].process.send_signal(signal.SIGCONT)
    finally:
        await runner.cleanup()
        await asyncio.to_thread(prometheus.stop)


@pytest.mark.parametrize(
    "pods", [({"minReplicas": 1, "maxReplicas": 6}, {"max_sequences": 1})], indirect=True
)
async def test_a_pool_whose_requests_wait_grows_to_its_bound_and_no_further(pods):
    own, _, drafters, stored = pods
    mock, metrics = stored_in(stored), OperatorMetrics()
    path = kind_of(next(each for each in stored if each["kind"] == "Deployment")).path("models", "fleet-p")
    # Three requests at a time for a drafter that serves one.
    async with busy(own, drafters * 3), operating(mock, metrics) as running:

        def grown():
            assert not running.done(), running.exception()
            return mock.objects[path]["spec"].get("replicas", 4) > 4

        await until(grown)
        assert mock.objects[path]["spec"]["replicas"] == 6
        decisions = mock.objects[PATH]["status"]["decisions"]
        (scale,) = (each for each in decisions if each["action"] == "Scale")
        assert (scale["subject"], scale["source"], scale["destination"]) == ("p", "4", "6")
        assert scale["reason"] == "Queue"
        # Its new pods never come here: a pool that still changes is left alone.
        await asyncio.sleep(12)
        assert mock.objects[path]["spec"]["replicas"] == 6
        conditions = {each["type"]: each for each in mock.objects[PATH]["status"]["conditions"]}
        assert "RollingOut" in conditions["Rebalancing"]["message"]
