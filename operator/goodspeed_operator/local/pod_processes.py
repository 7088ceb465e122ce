"""A node's runtime: pods as processes on this machine, told what a cluster would tell them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from goodspeed_operator.cluster.client import APIError, KubernetesAPI
from goodspeed_operator.local.container import ContainerError, Surroundings
from goodspeed_operator.local.expansion import Manifest
from goodspeed_operator.local.fleet import base_environment, default_cache, volumes_of
from goodspeed_operator.local.kubelet import Kubelet
from goodspeed_operator.local.network import Block, Resolver, selects
from goodspeed_operator.local.pod_report import Blocked, report
from goodspeed_operator.local.pod_status import PodStatus
from goodspeed_operator.local.process import tail
from goodspeed_operator.local.secret_files import secret_sources
from goodspeed_operator.resources.naming import COMPONENT_LABEL

RETRY_SECONDS = 2.0
TOKEN_SECONDS = 3600
_TOKEN_VOLUME = "kube-api-access"  # noqa: S105 - a volume's name

_Names = Mapping[tuple[str, str], Mapping[str, str]]


class PodProcesses:
    """Runs pods; implements `node.Runtime`.

    There are no images here: those of ``images`` stand for this very installation,
    any other cannot be pulled.
    """

    def __init__(
        self, api: KubernetesAPI, *, state: Path, images: Collection[str], cache: Path | None = None
    ) -> None:
        """Prepares to run pods.

        Args:
            api: for ConfigMaps, Secrets, Services and tokens.
            state: folder for logs and volumes.
            images: repositories, without tag, that this installation stands for.
            cache: of models; `default_cache` when None.

        Raises:
            NoAddressError: no addresses are free.
        """
        self._api = api
        self._state = state
        self._images = frozenset(images)
        self._cache = (cache or default_cache()).expanduser().resolve()
        self._block = Block()
        self._indices: dict[tuple[str, str], int] = {}
        self._bound: dict[tuple[str, str], Manifest] = {}
        self._changed: dict[int, Callable[[], None]] = {}
        self._kubelet = Kubelet(state / "logs", self._tell)
        self._blocked: dict[str, Blocked] = {}
        self._starts: dict[str, asyncio.Task[None]] = {}

    def start(self, pod: Manifest, changed: Callable[[], None]) -> None:
        """Begins to run a pod."""
        uid = pod["metadata"]["uid"]
        self._bound[_key(pod)] = pod
        self._starts[uid] = asyncio.create_task(self._start(pod, changed), name=f"start {uid}")

    async def stop(self, pod: Manifest) -> None:
        """Ends a pod within its grace period, and gives its address back."""
        uid = pod["metadata"]["uid"]
        self._bound.pop(_key(pod), None)  # no Service leads to a pod that is going
        if start := self._starts.pop(uid, None):
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
        if uid in self._kubelet.statuses:
            await self._kubelet.stop(uid)
        self._blocked.pop(uid, None)
        owner = (pod["metadata"].get("ownerReferences") or [{}])[0].get("kind")
        if owner != "StatefulSet":  # whose pods keep their name, and so their address
            self._indices.pop(_key(pod), None)

    def report(self, pod: Manifest, now: str) -> dict[str, Any]:
        """The pod's status as it is now."""
        uid = pod["metadata"]["uid"]
        local = self._kubelet.statuses.get(uid)
        folder = self._state / "logs" / uid
        return report(
            pod, local, self._blocked.get(uid), lambda container: tail(folder / f"{container}.log", 80), now
        )

    async def close(self) -> None:
        """Ends every pod."""
        for start in self._starts.values():
            start.cancel()
        await asyncio.gather(*self._starts.values(), return_exceptions=True)
        await self._kubelet.close()
        self._block.release()

    def _tell(self, status: PodStatus) -> None:
        if changed := self._changed.get(id(status)):
            changed()

    async def _start(self, pod: Manifest, changed: Callable[[], None]) -> None:
        """Tries until the pod's processes run: what it lacks may come."""
        uid = pod["metadata"]["uid"]
        while True:
            try:
                self._check_images(pod)
                around = await self._surroundings(pod)
                status = self._kubelet.start(pod, around, key=uid, init_logs=True)
            except _ImageError as error:
                self._blocked[uid] = Blocked("ErrImagePull", str(error))
            except (ContainerError, APIError) as error:
                self._blocked[uid] = Blocked("CreateContainerConfigError", str(error))
            else:
                self._changed[id(status)] = changed
                self._blocked.pop(uid, None)
                changed()
                return
            changed()
            await asyncio.sleep(RETRY_SECONDS)

    def _check_images(self, pod: Manifest) -> None:
        for container in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]:
            image = container["image"]
            if re.sub(r"(:[^/:]*)?(@.*)?$", "", image) not in self._images:
                raise _ImageError(f'failed to pull image "{image}": not found')

    async def _surroundings(self, pod: Manifest) -> Surroundings:
        namespace, address = pod["metadata"]["namespace"], self._address(_key(pod))
        config_maps = await self._data(pod, "configmaps")
        secrets = await self._data(pod, "secrets")
        resolver = await self._resolver(namespace, config_maps.values())
        role = pod["metadata"].get("labels", {}).get(COMPONENT_LABEL, "")
        forced = {"GOODSPEED_ADDRESS": address, "GOODSPEED_CACHE": str(self._cache)}
        if any(volume["name"].startswith(_TOKEN_VOLUME) for volume in pod["spec"].get("volumes", ())):
            forced["KUBECONFIG"] = str(await self._credentials(pod))
        return Surroundings(
            address=address,
            replace=lambda text: resolver.replace(text, namespace),
            config_maps=config_maps,
            secrets=secrets,
            volumes=volumes_of(pod, self._state / "pods" / pod["metadata"]["uid"], secrets),
            base=base_environment(role),
            forced=forced,
        )

    def _address(self, key: tuple[str, str]) -> str:
        if key not in self._indices:
            taken = set(self._indices.values())
            self._indices[key] = next(index for index in range(len(taken) + 1) if index not in taken)
        return self._block.address(self._indices[key])

    async def _data(self, pod: Manifest, plural: str) -> dict[tuple[str, str], dict[str, str]]:
        """The ConfigMaps or Secrets that a pod refers to, as far as they are there."""
        namespace = pod["metadata"]["namespace"]
        kind = "configMap" if plural == "configmaps" else "secret"
        found = {}
        for name in _references(pod, kind):
            with contextlib.suppress(APIError):
                path = f"/api/v1/namespaces/{namespace}/{plural}/{name}"
                data = (await self._api.request("GET", path)).get("data") or {}
                if kind == "secret":
                    data = {key: base64.b64decode(value).decode() for key, value in data.items()}
                found[namespace, name] = data
        return found

    async def _resolver(self, namespace: str, texts: Iterable[Mapping[str, str]]) -> Resolver:
        """Names to addresses, those of pods that are still to come included."""
        services = (await self._api.request("GET", "/api/v1/services")).get("items", ())
        found: dict[str, str] = {}
        for service in services:
            name, home = service["metadata"]["name"], service["metadata"]["namespace"]
            for key, pod in self._bound.items():
                if selects(service, pod):
                    found.setdefault(f"{name}.{home}", self._address(key))
            if home == namespace and service["spec"].get("clusterIP") == "None":
                for text in (value for data in texts for value in data.values()):
                    for pod_name in re.findall(rf"([a-z0-9][-a-z0-9]*)\.{re.escape(name)}(?![\w-])", text):
                        found[f"{pod_name}.{name}.{home}"] = self._address((home, pod_name))
        return Resolver(found)

    async def _credentials(self, pod: Manifest) -> Path:
        """A kubeconfig with the pod's own service account, since its usual path is every process's."""
        namespace, account = pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]
        answer = await self._api.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
            body={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": [], "expirationSeconds": TOKEN_SECONDS},
            },
        )
        here = await self._api.connection()
        server: dict[str, Any] = {"server": here.server, "insecure-skip-tls-verify": not here.verify}
        if here.verify and here.authority:
            server["certificate-authority"] = here.authority
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": server}],
            "users": [{"name": account, "user": {"token": answer["status"]["token"]}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": account}}],
            "current-context": "here",
        }
        path = self._state.joinpath("pods", str(pod["metadata"]["uid"]), "kubeconfig")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path


class _ImageError(ContainerError):
    """An image that this installation does not stand for."""


def _key(pod: Manifest) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def _references(pod: Manifest, kind: str) -> set[str]:
    names = set()
    for container in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]:
        for source in container.get("envFrom") or ():
            if f"{kind}Ref" in source:
                names.add(source[f"{kind}Ref"]["name"])
        for entry in container.get("env") or ():
            reference = (entry.get("valueFrom") or {}).get(f"{kind}KeyRef")
            if reference:
                names.add(reference["name"])
    if kind == "secret":
        for volume in pod["spec"].get("volumes") or ():
            names |= {source["name"] for source in secret_sources(volume)}
    return names
