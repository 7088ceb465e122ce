"""`goodspeed up` with real servers: a child is killed, it is killed itself, it is interrupted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from processes import PROMPT, eventually

pytestmark = pytest.mark.processes

CLUSTER = """
apiVersion: goodspeed.io/v1alpha1
kind: GoodSpeedCluster
metadata: {{name: tiny}}
spec:
  target: {{model: "file://{folder}/target", servedModelName: target, dtype: float32, maxContextTokens: 512}}
  verifier: {{budgetTokens: 16, drainSeconds: 1}}
  drafters:
  - {{name: model, model: "file://{folder}/draft", dtype: float32, drainSeconds: 1}}
  - {{name: lookup, model: "ngram://", drainSeconds: 1}}
"""


def processes():
    """pid -> (parent, command line) of everything that runs."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            if stat[0] != "Z":
                found[int(path.name)] = (int(stat[1]), (path / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def descendants(pid):
    running = processes()
    found, new = {}, {pid}
    while new:
        new = {child for child, (parent, _) in running.items() if parent in new}
        found |= {child: running[child][1] for child in new}
    return found


TENANTS = """
  tenants:
  - {name: gold, weight: 2, apiKeySecretRef: {name: keys, key: gold}}
  - {name: silver, apiKeySecretRef: {name: keys, key: silver}}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {gold: sk-gold-77, silver: sk-silver-77}
"""


class Up:
    """A `goodspeed up` of the tiny models."""

    def __init__(self, folder, place, more=""):
        file = place / "cluster.yaml"
        file.write_text(CLUSTER.format(folder=folder) + more)
        self.output = place / "output"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "goodspeed", "up", "--no-table", f"--filename={file}",
                 f"--state-dir={place / 'state'}"],
                stdout=output,
                stderr=output,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def said(self):
        return self.output.read_text()

    def says(self, words):
        if self.process.poll() is not None and words not in self.said():
            pytest.fail(f"ended with {self.process.returncode}:\n{self.said()}")
        return words in self.said()

    def serve(self):
        eventually(lambda: self.says("Try it"))
        return self

    def drafter(self, pool):
        line = next(line for line in self.said().splitlines() if f"tiny-{pool}" in line and "/v1" in line)
        return next(word for word in line.split() if word.startswith("http"))

    def complete(self, pool, **headers):
        body = {"model": "target", "prompt": PROMPT, "temperature": 0, "max_tokens": 12}
        return httpx.post(f"{self.drafter(pool)}/completions", json=body, headers=headers, timeout=60)

    def child(self, program):
        """The pid of one server."""
        return next(pid for pid, line in descendants(self.process.pid).items() if program in line)


@pytest.fixture
def up(folder, tmp_path):
    up = Up(folder, tmp_path)
    yield up
    if up.process.poll() is None:
        up.process.kill()
        up.process.wait(30)


def gone(pids):
    return not set(pids) & set(processes())


def test_a_child_that_is_killed_comes_back_and_ctrl_c_then_stops_everything_cleanly(up):
    up.serve()
    before = up.complete("model").json()["choices"][0]["text"]
    for program in ("goodspeed-verifier", "goodspeed-drafter"):
        pid = up.child(program)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: gone([pid]))
    for pool in ("model", "lookup"):

        def answers(pool=pool):
            try:
                response = up.complete(pool)
            except httpx.TransportError:
                return False
            return response.status_code == 200 and response.json()["choices"][0]["text"] == before

        eventually(answers)
    pids = {up.process.pid, *descendants(up.process.pid)}
    assert len(pids) >= 5
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    eventually(lambda: gone(pids))
    assert "Traceback" not in up.said()
    assert up.said().count(" stopped ") == 3


@pytest.mark.parametrize("moment", ["serving", "starting"])
def test_nothing_is_left_when_it_is_killed_itself(up, moment):
    if moment == "serving":
        up.serve()
    else:
        eventually(lambda: sum("goodspeed-" in line for line in descendants(up.process.pid).values()) == 3)
    pids = {up.process.pid, *descendants(up.process.pid)}
    os.kill(up.process.pid, signal.SIGKILL)
    up.process.wait(30)
    eventually(lambda: gone(pids), 30)


def test_keys_from_a_secret_in_the_same_file_are_asked_for_and_gone_with_the_fleet(folder, tmp_path):
    up = Up(folder, tmp_path, TENANTS)
    try:
        up.serve()
        assert up.complete("lookup").status_code == 401
        assert up.complete("lookup", Authorization="Bearer sk-gold-77").status_code == 200
        files = list((tmp_path / "state/secrets").rglob("gold"))
        assert len(files) == 2
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    finally:
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(60) == 0
    assert not (tmp_path / "state/secrets").exists()
    written = [up.said(), *(file.read_text() for file in (tmp_path / "state").rglob("*") if file.is_file())]
    assert not any("sk-gold" in text for text in written)


def test_ctrl_c_while_models_load_stops_cleanly_too(up):
    eventually(lambda: any("goodspeed-verifier" in line for line in descendants(up.process.pid).values()))
    pids = {up.process.pid, *descendants(up.process.pid)}
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    eventually(lambda: gone(pids))
    assert "Traceback" not in up.said()
