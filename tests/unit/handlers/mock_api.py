"""A Kubernetes API over HTTP that stores what is applied, and fails as a test says.

It has no schemas, no defaults, no rights and no field ownership: what those do is for the tests
against a real API server. It is here for what a real one does only when it is ill.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import kmock
from kubernetes.aio import client

from goodspeed_operator.cluster.client import KubernetesAPI

Manifest = dict[str, Any]
Failure = tuple[int, str, str]
"""HTTP status, reason and message."""


class MockAPI:
    """What is stored by path, and what was asked in order."""

    def __init__(self) -> None:
        self.objects: dict[str, Manifest] = {}
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[Manifest] = []
        self.queries: list[dict[str, str]] = []
        self.fails: Callable[[str, str], Failure | None] = lambda method, path: None
        self.silent = False
        self._versions = itertools.count(1)

    def put(self, path: str, body: Manifest) -> Manifest:
        """Stores an object as somebody else would, and returns it as stored."""
        version = str(next(self._versions))
        stored = json.loads(json.dumps(body))
        stored["metadata"] |= {"resourceVersion": version}
        stored["metadata"].setdefault("uid", f"uid-{version}")
        self.objects[path] = stored
        return stored

    async def answer(self, request: kmock.Request) -> kmock.Response:
        """Answers one request, always with its status: kmock's reaction keeps the last one given."""
        status, payload = await self._answer(request)
        return kmock.Response(status=status, payload=payload)

    async def _answer(self, request: kmock.Request) -> tuple[int, Manifest]:
        method, path = str(request.method.value), request.url.path
        self.asked.append((method, path))
        self.bodies.append(request.data if isinstance(request.data, dict) else {})
        self.queries.append(dict(request.url.query))
        if self.silent:
            await asyncio.sleep(60)
        if failure := self.fails(method, path):
            status, reason, message = failure
            return status, {"reason": reason, "message": message}
        match method:
            case "PATCH":
                return 200, self._patched(path, self.bodies[-1])
            case "POST":
                return 201, self.bodies[-1]
            case "DELETE":
                self.objects.pop(path, None)
                return 200, {}
        if path in self.objects:
            return 200, self.objects[path]
        if path.endswith("/events"):
            return 200, {"items": []}
        return 404, {"reason": "NotFound", "message": f"{path} is not there"}

    def _patched(self, path: str, body: Manifest) -> Manifest:
        base = path.removesuffix("/status")
        known = self.objects.get(base, {"metadata": {}})
        merged = {**known, **body, "metadata": {**known["metadata"], **body.get("metadata", {})}}
        return self.put(base, merged)

    def applied(self) -> list[Manifest]:
        """The bodies of server-side applies, status aside, in order."""
        asked = zip(self.asked, self.bodies, strict=True)
        return [body for (method, path), body in asked if method == "PATCH" and not path.endswith("/status")]

    def forget(self) -> None:
        """Starts the record anew."""
        self.asked, self.bodies, self.queries = [], [], []


@asynccontextmanager
async def serving(mock: MockAPI, seconds: float = 5.0) -> AsyncIterator[KubernetesAPI]:
    """The operator's own client, connected to the mock over HTTP."""
    async with kmock.RawHandler() as handler, kmock.Server(handler):
        handler.fallback << mock.answer
        configuration = client.Configuration(host=str(handler.url).rstrip("/"))
        async with KubernetesAPI(client.ApiClient(configuration), seconds=seconds) as api:
            yield api
