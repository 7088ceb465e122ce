"""A node whose pods are words only: each is ready, or fails, as a test says.

For what a test asks of the operator and not of verifiers: with it hundreds of
pods cost nothing, and a GPU can be had.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kubernetes.aio import client, config

from goodspeed_operator.cluster.client import KubernetesAPI
from goodspeed_operator.local.node import Node

Pod = dict[str, Any]
Verdict = Callable[[Pod], dict[str, Any] | None]
"""From a pod to the state of its container; None makes it ready."""

ADDRESS = "127.255.255.254"


def _always_ready(pod: Pod) -> dict[str, Any] | None:
    return None


class _Words:
    """Implements `node.Runtime` with statuses alone."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def start(self, pod: Pod, changed: Callable[[], None]) -> None:
        """Nothing has to begin."""

    async def stop(self, pod: Pod) -> None:
        """Nothing has to end."""

    async def close(self) -> None:
        """Nothing is left."""

    def report(self, pod: Pod, now: str) -> dict[str, Any]:
        failing = self.verdict(pod)
        ready = "False" if failing else "True"
        kinds = ("Initialized", "ContainersReady", "Ready")
        container = {
            "name": pod["spec"]["containers"][0]["name"],
            "image": pod["spec"]["containers"][0]["image"],
            "imageID": "",
            "ready": not failing,
            "started": not failing,
            "restartCount": 0,
            "state": {"running": {"startedAt": now}},
            **(failing or {}),
        }
        return {
            "phase": "Pending" if failing and "waiting" in failing["state"] else "Running",
            "podIP": ADDRESS,
            "startTime": now,
            "conditions": [{"type": kind, "status": ready, "lastTransitionTime": now} for kind in kinds],
            "containerStatuses": [container],
        }


class HollowNode:
    """A node in a thread of its own until the context is left."""

    def __init__(self, kubeconfig: Path, name: str = "hollow", **capacity: str) -> None:
        self._kubeconfig = kubeconfig
        self._name = name
        self._capacity = {"cpu": "1000", "memory": "1000Gi", "pods": "2000", **capacity}
        self._words = _Words(_always_ready)
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    async def _run(self) -> None:
        configuration = client.Configuration()
        await config.load_kube_config(str(self._kubeconfig), client_configuration=configuration)
        async with KubernetesAPI(client.ApiClient(configuration)) as api:
            node = Node(api, self._words, name=self._name, capacity=self._capacity)
            self._task = asyncio.create_task(node.run())
            await asyncio.gather(self._task, return_exceptions=True)

    def decide(self, verdict: Verdict | None = None) -> None:
        """How pods fare that start from now on; None makes them ready."""
        self._words.verdict = verdict or _always_ready

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(20)
        self._loop.close()
