"""A node whose kubelet is this process: pods that the scheduler binds to it run here.

For a control plane without machines, as tests start one. It registers the node,
keeps its lease, and moves pods between the API and a `Runtime`; what running
means is the runtime's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from goodspeed_operator.cluster.client import APIError, KubernetesAPI
from goodspeed_operator.local.expansion import Manifest

logger = logging.getLogger(__name__)

LEASE_SECONDS = 40
RENEW_SECONDS = 10.0
WATCH_SECONDS = 300
RETRY_SECONDS = 1.0
_STRATEGIC = "application/strategic-merge-patch+json"
_PODS = "/api/v1/pods"


class Runtime(Protocol):
    """Runs pods; every method returns soon except `stop`, which waits for the end."""

    def start(self, pod: Manifest, changed: Callable[[], None]) -> None:
        """Begins to run a pod; ``changed`` is to be called whenever its status does."""

    async def stop(self, pod: Manifest) -> None:
        """Ends a pod within its grace period."""

    def report(self, pod: Manifest, now: str) -> dict[str, Any]:
        """The pod's status as it is now."""

    async def close(self) -> None:
        """Ends every pod."""


class Node:
    """One node, until cancelled."""

    def __init__(
        self, api: KubernetesAPI, runtime: Runtime, *, name: str, capacity: Mapping[str, str]
    ) -> None:
        """Describes a node; nothing happens yet.

        Args:
            api: with an administrator's or a node's rights.
            runtime: runs its pods.
            name: of the node.
            capacity: what the scheduler may give away, such as ``{"cpu": "8", "nvidia.com/gpu": "1"}``.
        """
        self._api = api
        self._runtime = runtime
        self._name = name
        self._capacity = {"pods": "250", **capacity}
        self._pods: dict[str, Manifest] = {}
        self._ends: dict[str, asyncio.Task[None]] = {}
        self._changed: dict[str, None] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Registers the node and runs its pods until cancelled.

        Raises:
            APIError: the API refused to register it.
        """
        await self._register()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renew())
                tasks.create_task(self._watch())
                tasks.create_task(self._write())
        finally:
            for end in self._ends.values():
                end.cancel()
            await asyncio.gather(*self._ends.values(), return_exceptions=True)
            await self._runtime.close()

    async def _register(self) -> None:
        labels = {"kubernetes.io/hostname": self._name, "kubernetes.io/os": "linux"}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._name, "labels": labels}}
        try:
            await self._api.request("POST", "/api/v1/nodes", body=body)
        except APIError as error:
            if error.status != 409:
                raise
        now = _now()
        well = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        status = {"capacity": self._capacity, "allocatable": self._capacity, "conditions": [well]}
        path = f"/api/v1/nodes/{self._name}/status"
        await self._api.request("PATCH", path, body={"status": status}, content_type=_STRATEGIC)

    async def _renew(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        while True:
            time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "namespace": "kube-node-lease"},
                "spec": {
                    "holderIdentity": self._name,
                    "leaseDurationSeconds": LEASE_SECONDS,
                    "renewTime": time,
                },
            }
            try:
                await self._api.request(
                    "PATCH",
                    f"{path}/{self._name}",
                    body=lease,
                    query={"fieldManager": "kubelet", "force": "true"},
                    content_type="application/apply-patch+yaml",
                )
            except APIError as error:
                logger.warning("node lease: %s", error)
            await asyncio.sleep(RENEW_SECONDS)

    async def _watch(self) -> None:
        selector = {"fieldSelector": f"spec.nodeName={self._name}"}
        while True:
            try:
                listed = await self._api.request("GET", _PODS, query=selector)
                there = {pod["metadata"]["uid"]: pod for pod in listed.get("items", ())}
                for uid in set(self._pods) - set(there):
                    self._gone(self._pods[uid])
                for pod in there.values():
                    self._seen(pod)
                version = {"resourceVersion": listed["metadata"]["resourceVersion"]}
                async for kind, pod in self._api.watch(_PODS, selector | version, seconds=WATCH_SECONDS):
                    if kind == "DELETED":
                        self._gone(pod)
                    else:
                        self._seen(pod)
            except APIError as error:
                logger.warning("watching pods: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    def _seen(self, pod: Manifest) -> None:
        uid = pod["metadata"]["uid"]
        known = uid in self._pods
        self._pods[uid] = pod
        if "deletionTimestamp" in pod["metadata"]:
            if uid not in self._ends:
                self._ends[uid] = asyncio.create_task(self._end(pod))
        elif not known and (pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}:
            self._runtime.start(pod, lambda: self._mark(uid))
            self._mark(uid)

    def _gone(self, pod: Manifest) -> None:
        uid = pod["metadata"]["uid"]
        if self._pods.pop(uid, None) is not None and uid not in self._ends:
            self._ends[uid] = asyncio.create_task(self._end(pod))

    async def _end(self, pod: Manifest) -> None:
        metadata = pod["metadata"]
        await self._runtime.stop(pod)
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        try:
            await self._api.request("DELETE", _path(metadata), body=body)
        except APIError as error:
            if error.status not in {404, 409}:
                logger.warning("pod %s: %s", metadata["name"], error)
        self._pods.pop(metadata["uid"], None)
        self._ends.pop(metadata["uid"], None)

    def _mark(self, uid: str) -> None:
        self._changed[uid] = None
        self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for uid in list(self._changed):
                del self._changed[uid]
                pod = self._pods.get(uid)
                if pod is not None:
                    await self._write_one(pod)

    async def _write_one(self, pod: Manifest) -> None:
        metadata = pod["metadata"]
        status = self._runtime.report(pod, _now())
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}
        try:
            await self._api.request("PATCH", _path(metadata) + "/status", body=body, content_type=_STRATEGIC)
        except APIError as error:
            if error.status in {404, 409}:
                return
            logger.warning("pod %s: %s", metadata["name"], error)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._mark, metadata["uid"])


def _path(metadata: Mapping[str, Any]) -> str:
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
