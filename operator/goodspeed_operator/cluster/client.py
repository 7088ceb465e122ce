"""Talks to the Kubernetes API: server-side apply, delete, status and events.

Thin on purpose. What to apply is decided elsewhere; here is only how it gets
there: a field manager, a deadline for every call, and errors that say which
object they are about.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from goodspeed_operator.cluster.kinds import CLUSTER, Kind, Manifest, kind_of
from goodspeed_operator.cluster.ownership import taken_over

FIELD_MANAGER = "goodspeed-operator"
HANDOVER_MANAGER = "goodspeed-handover"
FIELD_MANAGERS = frozenset({FIELD_MANAGER, HANDOVER_MANAGER})
REQUEST_SECONDS = 15.0
PAGE = 500

_APPLY = "application/apply-patch+yaml"


class APIError(Exception):
    """A call to the Kubernetes API failed.

    Attributes:
        status: the HTTP status, or 0 when no answer came.
        reason: the API's own reason, such as ``Forbidden`` or ``Invalid``.
    """

    def __init__(self, action: str, status: int, reason: str, message: str) -> None:
        super().__init__(f"{action}: {message or reason or status}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def permanent(self) -> bool:
        """Whether trying again with the same body cannot help (422 Invalid, 400).

        Server-side apply answers a body of wrong types with 500.
        """
        return self.status in {400, 422} or "failed to create typed patch object" in self.message


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the API is and how to get in; paths name files."""

    server: str
    token: str = field(repr=False)
    authority: str | None
    certificate: str | None
    key: str | None
    verify: bool


class KubernetesAPI:
    """The calls that the operator makes, each with a deadline.

    Counts requests, so that the operator can show that it is quiet at rest.
    """

    def __init__(self, api_client: client.ApiClient, *, seconds: float = REQUEST_SECONDS) -> None:
        self._client = api_client
        self._seconds = seconds
        self.requests = 0

    @classmethod
    async def connect(cls) -> KubernetesAPI:
        """Connects as the pod's service account, or as the kubeconfig's current user.

        Raises:
            kubernetes.aio.config.ConfigException: neither is there.
        """
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)
        return cls(client.ApiClient(configuration))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def connection(self) -> Connection:
        """Where the API is, and the credentials for it as they are now."""
        configuration = self._client.configuration
        header = await configuration.get_api_key_with_prefix("BearerToken") or ""
        return Connection(
            server=configuration.host,
            token=header.removeprefix("Bearer ").strip(),
            authority=configuration.ssl_ca_cert,
            certificate=configuration.cert_file,
            key=configuration.key_file,
            verify=configuration.verify_ssl,
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | list[Any] | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        """One call.

        Raises:
            APIError: the API refused, did not answer in time, or could not be reached.
        """
        self.requests += 1
        action = f"{method} {path}"
        try:
            prepared = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(*prepared, _request_timeout=self._seconds)
            text = (await response.read()) or b"{}"
            status = response.status
        except ApiException as error:
            text, status = (
                (error.body or "{}").encode() if isinstance(error.body, str) else b"{}",
                error.status or 0,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise APIError(action, 0, type(error).__name__, str(error) or type(error).__name__) from error
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {"message": text[:200].decode(errors="replace")}
        if not 200 <= status < 300:
            raise APIError(action, status, str(answer.get("reason", "")), str(answer.get("message", "")))
        return dict(answer)

    async def watch(
        self, path: str, query: Mapping[str, str], *, seconds: int
    ) -> AsyncIterator[tuple[str, Manifest]]:
        """Events of one watch, until the server ends it after ``seconds``.

        Raises:
            APIError: it could not begin, broke off, or asked to list again (410).
        """
        action = f"WATCH {path}"
        prepared = await self._client.param_serialize(
            "GET",
            path,
            query_params=[*query.items(), ("watch", "true"), ("timeoutSeconds", str(seconds))],
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        try:
            answer = await self._client.call_api(*prepared, _request_timeout=seconds + self._seconds)
            async for line in answer.response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise APIError(
                        action, status.get("code", 0), status.get("reason", ""), status.get("message", "")
                    )
                yield event["type"], event["object"]
        except ApiException as error:
            raise APIError(action, error.status or 0, error.reason or "", "") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise APIError(action, 0, type(error).__name__, str(error)) from error

    async def apply(self, manifest: Manifest, *, manager: str = FIELD_MANAGER) -> Manifest:
        """Server-side apply, owning every field the manifest names; returns the object as stored."""
        metadata = manifest["metadata"]
        return await self.request(
            "PATCH",
            kind_of(manifest).path(metadata["namespace"], metadata["name"]),
            body=manifest,
            query={"fieldManager": manager, "force": "true"},
            content_type=_APPLY,
        )

    async def take_over(self, kind: Kind, namespace: str, name: str, *, replicas: bool) -> None:
        """Makes fields that others own ours, so that the next apply removes what it does not name.

        One that changed meanwhile, or is gone, is fine: the watch brings it back.
        """
        found = await self.get(kind, namespace, name)
        if found is None:
            return
        metadata = found["metadata"]
        fields = taken_over(
            metadata.get("managedFields") or (), FIELD_MANAGER, FIELD_MANAGERS, replicas=replicas
        )
        patch = [
            {"op": "replace", "path": "/metadata/managedFields", "value": fields},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        ]
        try:
            await self.request(
                "PATCH", kind.path(namespace, name), body=patch, content_type="application/json-patch+json"
            )
        except APIError as error:
            if error.status not in {404, 409}:
                raise

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """The object, or None when it is not there."""
        try:
            return await self.request("GET", kind.path(namespace, name))
        except APIError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: Kind, namespace: str, *, selector: str = "") -> list[Manifest]:
        """All objects with these labels, of all namespaces when ``namespace`` is empty.

        An optional API that is absent has none.
        """
        found: list[Manifest] = []
        query = {"limit": str(PAGE), **({"labelSelector": selector} if selector else {})}
        while True:
            try:
                answer = await self.request("GET", kind.path(namespace), query=query)
            except APIError as error:
                if error.status == 404 and kind.optional:
                    return []
                raise
            head = {"apiVersion": kind.api_version, "kind": kind.kind}
            found += [{**head, **item} for item in answer.get("items", [])]
            following = answer.get("metadata", {}).get("continue")
            if not following:
                return found
            query["continue"] = following

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Deletes that very object (by uid) in the background; one already gone is fine."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self.request("DELETE", kind.path(namespace, name), body=body)
        except APIError as error:
            if error.status not in {404, 409}:
                raise

    async def patch_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> Manifest | None:
        """Applies the cluster's status; returns the cluster, None when it was deleted meanwhile."""
        body = {
            "apiVersion": CLUSTER.api_version,
            "kind": CLUSTER.kind,
            "metadata": {"name": name, "namespace": namespace},
            "status": dict(status),
        }
        try:
            return await self.request(
                "PATCH",
                CLUSTER.path(namespace, name) + "/status",
                body=body,
                query={"fieldManager": FIELD_MANAGER, "force": "true"},
                content_type=_APPLY,
            )
        except APIError as error:
            if error.status != 404:
                raise
            return None

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server knows the kind."""
        try:
            answer = await self.request("GET", kind.root)
        except APIError as error:
            if error.status in {403, 404}:
                return False
            raise
        return any(resource.get("name") == kind.plural for resource in answer.get("resources", []))

    async def post_event(self, about: Manifest, *, warning: bool, reason: str, message: str) -> None:
        """Tells people about a cluster, where `kubectl describe` shows it; best effort."""
        metadata = about["metadata"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": CLUSTER.api_version,
                "kind": CLUSTER.kind,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata.get("uid", ""),
            },
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:1024],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
        }
        with contextlib.suppress(APIError):
            await self.request("POST", f"/api/v1/namespaces/{metadata['namespace']}/events", body=body)
