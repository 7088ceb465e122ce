"""`goodspeed node` as a process: pods that the scheduler binds to it run for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAM = Path(sys.executable).parent / "goodspeed"


class NodeProcess:
    """A node until the context is left; every pod's process ends with it."""

    def __init__(self, kubeconfig: Path, state: Path, name: str = "local") -> None:
        self._kubeconfig = kubeconfig
        self.state = state
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GOODSPEED_")}
        if "GOODSPEED_CACHE" in os.environ:
            environment["GOODSPEED_CACHE"] = os.environ["GOODSPEED_CACHE"]
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "node.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    PROGRAM,
                    "node",
                    f"--name={self._name}",
                    "--capacity=cpu=64",
                    "--capacity=memory=256Gi",
                    f"--state-dir={self.state}",
                ],
                env={**environment, "KUBECONFIG": str(self._kubeconfig), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def words(self) -> str:
        """The ends of all logs there are, for a failure's message."""
        logs = [self.state / "node.log", *sorted(self.state.glob("logs/*/*.log"))]
        return "\n".join(f"--- {log}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)
