"""A real Prometheus as a process, and a fleet that `goodspeed up` runs from a GoodSpeedCluster."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

MISSING = "needs prometheus and promtool on PATH (Debian's package prometheus)"
ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts/goodspeed/files/rules.yaml"


def needs_prometheus():
    if not (shutil.which("prometheus") and shutil.which("promtool")):
        pytest.skip(MISSING)


def eventually(condition, seconds=60.0, every=0.2):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not true within {seconds:g} s: {value!r}"
        time.sleep(every)
    return value


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Prometheus:
    """Scrapes targets every second; may be stopped, emptied and started again at the same address."""

    def __init__(self, folder, targets=(), rules=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._targets = self.folder / "targets.json"
        self.scrape(targets)
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "scrape_configs": [
                {
                    "job_name": "goodspeed",
                    "honor_labels": True,
                    "file_sd_configs": [{"files": [str(self._targets)], "refresh_interval": "1s"}],
                }
            ],
        }
        if rules is not None:
            config["rule_files"] = [str(rules)]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.process = None

    def scrape(self, urls):
        """Changes what is scraped."""
        targets = [url.removeprefix("http://") for url in urls]
        new = self._targets.with_suffix(".new")
        new.write_text(json.dumps([{"targets": targets}]))
        new.replace(self._targets)

    def start(self):
        with (self.folder / "prometheus.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self.folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        eventually(self.ready, 60)
        return self

    def ready(self):
        assert self.process.poll() is None, (self.folder / "prometheus.log").read_text()[-2000:]
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, *, forget=False):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if forget:
            shutil.rmtree(self.folder / "data", ignore_errors=True)

    def query(self, text):
        """An instant query's result; it must succeed."""
        answer = httpx.post(f"{self.url}/api/v1/query", data={"query": text}, timeout=20)
        body = answer.json()
        assert body["status"] == "success", f"{text}: {body}"
        return body["data"]["result"]

    def values(self, text):
        return [float(each["value"][1]) for each in self.query(text)]


class UpFleet:
    """`goodspeed up` of one cluster, until it is stopped."""

    def __init__(self, folder, cluster, prometheus=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "cluster.yaml"
        self.file.write_text(yaml.safe_dump(cluster))
        self.state = self.folder / "state"
        self._log = self.folder / "up.log"
        self._options = [f"--prometheus={prometheus}"] if prometheus else []
        self.process = None

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GOODSPEED_")}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    str(Path(sys.executable).parent / "goodspeed"),
                    "up",
                    f"--filename={self.file}",
                    f"--state-dir={self.state}",
                    "--no-table",
                    *self._options,
                ],
                stdout=log,
                stderr=log,
                env={**environment, "OMP_NUM_THREADS": "1"},
            )
        eventually(lambda: self._alive() and (self.state / "fleet.json").exists(), 200)
        return self

    def _alive(self):
        assert self.process.poll() is None, self.words()
        return True

    def words(self):
        return self._log.read_text()

    @property
    def plain(self):
        return json.loads((self.state / "fleet.json").read_text())

    @property
    def cells(self):
        """URL by name."""
        return dict(self.plain["cells"])

    @property
    def drafters(self):
        """URL by name."""
        return {name: url for name, url, _ in self.plain["drafters"]}

    @property
    def urls(self):
        return [*self.cells.values(), *self.drafters.values()]

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
