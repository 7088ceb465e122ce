"""The operator as its Deployment runs it: a process of its own, with its own service account's rights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from control_plane import free_port

PROGRAM = Path(sys.executable).parent / "goodspeed-operator"


class OperatorProcess:
    """`goodspeed-operator` until the context is left; it may be killed and started again meanwhile."""

    def __init__(self, kubeconfig: Path, log: Path, *, identity: str = "one", **options: str) -> None:
        self._kubeconfig = kubeconfig
        self._log = log
        self._port = free_port()
        self._options = {
            "lease-namespace": "goodspeed-system",
            "lease-name": "goodspeed",
            "identity": identity,
            "address": "127.0.0.1",
            "http-port": str(self._port),
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Starts it; returns at once."""
        arguments = [f"--{name}={value}" for name, value in self._options.items()]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GOODSPEED_")}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, *arguments],
                env={**environment, "KUBECONFIG": str(self._kubeconfig)},
                stdout=log,
                stderr=log,
            )
        return self

    def kill(self) -> None:
        """SIGKILL, as when its node dies."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_now(self) -> None:
        """SIGKILL, without waiting for the end; from any thread."""
        assert self.process is not None
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP: it sees and does nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def dead(self) -> bool:
        """Whether it has ended."""
        assert self.process is not None
        return self.process.poll() is not None

    def stop(self) -> int:
        """SIGTERM, as the kubelet ends it; returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                return self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def get(self, path: str) -> tuple[int, str]:
        """What its HTTP server answers; 0 while it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def leading(self) -> bool:
        """Whether it acts."""
        return self.get("/readyz")[1] == "leading\n"

    def until_leading(self, seconds: float = 40.0) -> float:
        """Waits until it acts; returns how many seconds that took."""
        began = time.monotonic()
        while not self.leading():
            assert self.process is not None
            assert self.process.poll() is None, self.log()[-3000:]
            assert time.monotonic() - began < seconds, self.log()[-3000:]
            time.sleep(0.1)
        return time.monotonic() - began

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        lines = self.get("/metrics")[1].splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{"))
        )

    def log(self) -> str:
        """All it has written."""
        return self._log.read_text(errors="replace")

    def resident_mebibytes(self) -> float:
        """Memory it holds now."""
        return self._memory("VmRSS")

    def peak_mebibytes(self) -> float:
        """The most memory it has held."""
        return self._memory("VmHWM")

    def _memory(self, name: str) -> float:
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the operator does not run")

    def processor_seconds(self) -> float:
        """Processor time it has used."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
