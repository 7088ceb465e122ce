"""A fleet of two verifiers and eight drafters from a GoodSpeedCluster, with load on chosen drafters."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import httpx
import pytest
from server import MISSING, needs_prometheus

from fleet_fixtures import folder  # noqa: F401
from tiny_model import make


def pytest_collection_modifyitems(items):
    import shutil

    for item in items:
        if "prometheus" in str(item.path) and not (shutil.which("prometheus") and shutil.which("promtool")):
            item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="session")
def target(tmp_path_factory):
    needs_prometheus()
    return make(tmp_path_factory.mktemp("models") / "target", seed=1)


@pytest.fixture(scope="session")
def two_by_eight(target):
    """The resource; drafters draft with the target itself, so that speculation pays and budget is wanted.

    Its verifiers are paced, since they share this machine.
    """
    command = [sys.executable, str(Path(__file__).with_name("paced_verifier.py"))]
    paced = {"spec": {"containers": [{"name": "verifier", "command": command}]}}

    def cluster(**spec):
        model = f"file://{target}"
        drafters = [{"name": f"pool-{index}", "model": model, "dtype": "float32"} for index in range(8)]
        verifier = {"replicas": 2, "budgetTokens": 8} | spec.pop("verifier", {})
        return {
            "apiVersion": "goodspeed.io/v1alpha1",
            "kind": "GoodSpeedCluster",
            "metadata": {"name": "fleet"},
            "spec": {
                "target": {"model": model, "maxContextTokens": 512, "dtype": "float32"},
                "verifier": {**verifier, "podTemplate": paced},
                "drafters": drafters,
                **spec,
            },
        }

    return cluster


class Load:
    """One request after the other to each of some drafters, until it is stopped.

    Attributes:
        received: tokens by drafter.
        failed: what went wrong; must stay empty.
    """

    def __init__(self, fleet, drafters, tokens=400):
        self.received = dict.fromkeys(drafters, 0)
        self.failed = []
        self._tokens = tokens
        self._stop = threading.Event()
        urls = fleet.drafters
        self._threads = [threading.Thread(target=self._ask, args=(name, urls[name])) for name in drafters]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, name, url):
        while not self._stop.is_set():
            body = {
                "model": "target",
                "prompt": "hello hello",
                "max_tokens": self._tokens,
                "temperature": 1,
                "ignore_eos": True,
                "return_token_ids": True,
            }
            try:
                answer = httpx.post(f"{url}/v1/completions", json=body, timeout=200)
                answer.raise_for_status()
                tokens = len(answer.json()["choices"][0]["token_ids"])
            except (httpx.HTTPError, ValueError, KeyError) as error:
                self.failed.append((name, repr(error)))
                continue
            self.received[name] += tokens
            if tokens != self._tokens:
                self.failed.append((name, f"{tokens} tokens"))


@pytest.fixture(scope="session")
def load():
    return Load
