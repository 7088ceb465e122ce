"""Real processes, small ones: Python from the command line, on loopback addresses."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from manifests import pod

from goodspeed_operator.local.backoff import Backoff
from goodspeed_operator.local.container import ContainerError, Surroundings
from goodspeed_operator.local.kubelet import Kubelet
from goodspeed_operator.local.network import Block
from goodspeed_operator.local.pod_status import Phase
from goodspeed_operator.local.process import tail

SERVER = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists("unready") and self.path == "/readyz" else 200)
        self.end_headers()
    def log_message(self, *arguments): pass
signal.signal(signal.SIGTERM, lambda *_: (print("goodbye", flush=True), os._exit(0)))
print("serving", flush=True)
http.server.HTTPServer((os.environ["ADDRESS"], 8000), Handler).serve_forever()
"""
PROBES = {
    "startupProbe": {
        "httpGet": {"path": "/readyz", "port": 8000},
        "periodSeconds": 1,
        "failureThreshold": 30,
    },
    "readinessProbe": {
        "httpGet": {"path": "/readyz", "port": 8000},
        "periodSeconds": 1,
        "failureThreshold": 1,
    },
    "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8000}, "periodSeconds": 1},
}
BASE = {"PATH": os.environ["PATH"]}


def python(code, **more):
    return {"name": "main", "command": [sys.executable, "-c", textwrap.dedent(code)], **more}


@pytest.fixture
def address():
    block = Block()
    yield block.address(0)
    block.release()


@pytest.fixture
async def kubelet(tmp_path):
    kubelet = Kubelet(tmp_path, backoff=Backoff(first=0.1))
    yield kubelet
    await kubelet.close()


def around(address):
    return Surroundings(address, base=BASE, forced={"ADDRESS": address})


async def until(condition, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


async def test_a_pod_becomes_ready_by_its_probes_and_stops_in_order(kubelet, address):
    status = kubelet.start(pod(python(SERVER, **PROBES)), around(address))
    await until(lambda: status.ready)
    pid = status.pids["main"]
    await kubelet.stop("one-0")
    assert status.phase is Phase.STOPPED
    assert not alive(pid)
    assert tail(status.log) == "serving\ngoodbye"


async def test_a_killed_container_is_started_again(kubelet, address):
    status = kubelet.start(pod(python(SERVER, **PROBES)), around(address))
    await until(lambda: status.ready)
    first = status.pids["main"]
    os.kill(first, signal.SIGKILL)
    await until(lambda: status.restarts == 1 and status.ready)
    assert status.pids["main"] != first


async def test_a_container_that_hangs_is_restarted_by_its_liveness_probe(kubelet, address):
    status = kubelet.start(
        pod(python(SERVER, **PROBES | {"startupProbe": None}), terminationGracePeriodSeconds=1),
        around(address),
    )
    await until(lambda: status.ready)
    os.kill(status.pids["main"], signal.SIGSTOP)
    await until(lambda: status.restarts == 1 and status.ready, 20)


async def test_a_container_that_ignores_sigterm_is_killed_after_its_grace_period(kubelet, address):
    code = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("on", flush=True)
    time.sleep(60)
    """
    status = kubelet.start(pod(python(code), terminationGracePeriodSeconds=0.5), around(address))
    await until(lambda: tail(status.log) == "on")
    pid = status.pids["main"]
    began = time.monotonic()
    await kubelet.stop("one-0")
    assert 0.4 < time.monotonic() - began < 3
    assert not alive(pid)


async def test_a_container_that_ends_at_once_backs_off_and_says_why(kubelet, address):
    status = kubelet.start(pod(python("print('no such model'); raise SystemExit(3)")), around(address))
    await until(lambda: status.crashes >= 3)
    assert status.phase in (Phase.BACK_OFF, Phase.STARTING)
    assert status.message == "exited with 3"
    assert "no such model" in tail(status.log)


async def test_a_program_that_is_not_installed_is_a_message(kubelet, address):
    status = kubelet.start(pod({"name": "main", "command": ["goodspeed-nothing"]}), around(address))
    await until(lambda: status.phase is Phase.BACK_OFF)
    assert "goodspeed-nothing is not installed" in status.message


async def test_each_distinct_init_container_runs_once_for_all_pods(kubelet, address, tmp_path):
    init = [python(f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")]
    one, two = (
        pod(python("import time; time.sleep(60)"), name, initContainers=init) for name in ("one", "two")
    )
    statuses = [kubelet.start(each, around(address)) for each in (one, two)]
    await until(lambda: all(status.pids for status in statuses))
    assert (tmp_path / "ran").read_text() == "x"


async def test_an_init_container_that_fails_is_an_error_to_who_waits_for_it(kubelet, address):
    with pytest.raises(ContainerError, match="exited with 4"):
        await kubelet.initialise(
            pod(python("pass"), initContainers=[python("raise SystemExit(4)")]), around(address)
        )


async def test_what_a_container_started_ends_with_it(kubelet, address):
    code = """
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    time.sleep(60)
    """
    status = kubelet.start(pod(python(code), terminationGracePeriodSeconds=1), around(address))
    await until(lambda: tail(status.log))
    grandchild = int(tail(status.log))
    assert alive(grandchild)
    await kubelet.stop("one-0")
    await until(lambda: not alive(grandchild))


RUNNER = """
import asyncio, os, sys
from pathlib import Path
from goodspeed_operator.local.container import Surroundings
from goodspeed_operator.local.kubelet import Kubelet

async def main():
    kubelet = Kubelet(Path(sys.argv[1]))
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    container = {"name": "main", "command": [sys.executable, "-c", code]}
    status = kubelet.start(
        {"metadata": {"name": "one-0"}, "spec": {"containers": [container]}},
        Surroundings("127.0.0.1", base=dict(os.environ)),
    )
    while not (status.log.exists() and status.log.read_text().strip()):
        await asyncio.sleep(0.02)
    print(status.pids["main"], status.log.read_text().strip(), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_nothing_is_left_when_the_runner_is_killed(tmp_path):
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", RUNNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as runner:
        pids = [int(pid) for pid in runner.stdout.readline().split()]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        runner.kill()
        runner.wait()
        await until(lambda: not any(alive(pid) for pid in pids))
