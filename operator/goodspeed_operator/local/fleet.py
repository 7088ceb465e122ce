"""One cluster on one machine: its manifests become pods, its pods processes.

What the operator would apply is taken as it is; only what a single machine must
decide (addresses, folders, threads) is added here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.secrets import Secrets
from goodspeed_operator.local.container import Surroundings, resolve
from goodspeed_operator.local.expansion import Manifest, expand
from goodspeed_operator.local.kubelet import Kubelet
from goodspeed_operator.local.network import Block, Resolver, records, services_of
from goodspeed_operator.local.pod_status import Observer, PodStatus
from goodspeed_operator.local.process import tail
from goodspeed_operator.local.secret_files import secret_sources, write_secrets
from goodspeed_operator.resources.fleet import desired
from goodspeed_operator.resources.naming import COMPONENT_LABEL, POOL_LABEL

HOPELESS_CRASHES = 3
GRACE_SECONDS = 10.0
_SECRETS = "secrets"


class FleetError(RuntimeError):
    """The fleet cannot be brought up; the message holds the pods' own words."""


@dataclass(frozen=True, slots=True)
class Member:
    """One pod of the fleet.

    Attributes:
        pod: its manifest.
        around: what it finds around it.
        role: ``verifier`` or ``drafter``.
        pool: of a drafter, else empty.
        model: its model's URI.
        http_port: of its API, metrics and health.
    """

    pod: Manifest
    around: Surroundings
    role: str
    pool: str
    model: str
    http_port: int

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.pod["metadata"]["name"])

    @property
    def url(self) -> str:
        """Where its HTTP server listens."""
        return f"http://{self.around.address}:{self.http_port}"


def default_cache() -> Path:
    """Where models are kept unless somebody says otherwise."""
    configured = os.environ.get("GOODSPEED_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "goodspeed"


def manifests_of(cluster: GoodSpeedCluster) -> list[Manifest]:
    """What the operator would apply, with the spec's number of drafters where others would scale them."""
    replicas = {pool.name: pool.replicas for pool in cluster.spec.drafters}
    manifests = desired(cluster)
    for each in manifests:
        if each["kind"] == "Deployment":
            each["spec"].setdefault("replicas", replicas[each["metadata"]["labels"][POOL_LABEL]])
    return manifests


class Fleet:
    """A cluster's pods on this machine."""

    def __init__(
        self,
        manifests: Sequence[Manifest],
        *,
        state: Path,
        secrets: Secrets | None = None,
        cache: Path | None = None,
        observer: Observer = lambda status: None,
    ) -> None:
        """Plans the fleet; nothing runs yet.

        Args:
            manifests: as the operator would apply them.
            state: folder for logs and volumes.
            secrets: data of the Secrets that pods refer to.
            cache: of models; `default_cache` when None.
            observer: told whenever a pod's status changes.

        Raises:
            NoAddressError: no addresses are free.
            ContainerError: a pod cannot run on this machine.
        """
        state.mkdir(parents=True, exist_ok=True)
        self._state = state
        self._block = Block()
        self._kubelet = Kubelet(state / "logs", observer)
        pods = expand(manifests)
        addresses = {pod["metadata"]["name"]: self._block.address(i) for i, pod in enumerate(pods)}
        resolver = Resolver(records(pods, services_of(manifests), addresses))
        config_maps = {
            (each["metadata"].get("namespace", "default"), each["metadata"]["name"]): each.get("data", {})
            for each in manifests
            if each["kind"] == "ConfigMap"
        }
        cache = (cache or default_cache()).expanduser().resolve()
        self.members = [
            _member(
                pod, addresses[pod["metadata"]["name"]], resolver, config_maps, secrets or {}, state, cache
            )
            for pod in pods
        ]

    @property
    def statuses(self) -> dict[str, PodStatus]:
        """Statuses by pod name, of the pods that were started."""
        return self._kubelet.statuses

    def of_role(self, role: str) -> list[Member]:
        """The members of one role."""
        return [member for member in self.members if member.role == role]

    async def prefetch(self) -> None:
        """Runs every distinct init container, which fetch and convert models, one after the other.

        Raises:
            ContainerError: one failed; its words are on standard error.
        """
        for member in self.members:
            await self._kubelet.initialise(member.pod, member.around)

    def start(self) -> None:
        """Starts all pods."""
        for member in self.members:
            self._kubelet.start(member.pod, member.around)

    async def ready(self, timeout: float, waiting: Callable[[Sequence[PodStatus]], None]) -> None:  # noqa: ASYNC109
        """Waits until every pod is ready.

        Args:
            timeout: seconds.
            waiting: told now and then which pods are not.

        Raises:
            FleetError: a pod keeps ending, or time is up.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        while pending := [status for status in self.statuses.values() if not status.ready]:
            waiting(pending)
            hopeless = [status for status in pending if status.crashes >= HOPELESS_CRASHES]
            if hopeless:
                raise FleetError(_words("keeps ending", hopeless))
            if clock() > deadline:
                raise FleetError(_words(f"not ready after {timeout:g} s", pending))
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Ends every pod, gives its addresses back and leaves no Secret behind."""
        await self._kubelet.close()
        self._block.release()
        shutil.rmtree(self._state / _SECRETS, ignore_errors=True)


def _words(trouble: str, statuses: Sequence[PodStatus]) -> str:
    """What pods have to say about their trouble: reason and the end of the log."""
    parts = []
    for status in statuses:
        log = tail(status.log)
        parts.append(
            f"{status.name} {trouble}"
            + (f": {status.message}" if status.message else "")
            + (f"\n--- end of {status.log}\n{log}\n---" if log else "")
        )
    return "\n".join(parts)


def _member(
    pod: Manifest,
    address: str,
    resolver: Resolver,
    config_maps: dict[tuple[str, str], dict[str, str]],
    secrets: Secrets,
    state: Path,
    cache: Path,
) -> Member:
    namespace = pod["metadata"].get("namespace", "default")
    labels = pod["metadata"].get("labels", {})
    role = labels.get(COMPONENT_LABEL, "")
    pod["spec"].setdefault("terminationGracePeriodSeconds", GRACE_SECONDS)
    pod["spec"]["terminationGracePeriodSeconds"] = min(
        GRACE_SECONDS, pod["spec"]["terminationGracePeriodSeconds"]
    )
    around = Surroundings(
        address=address,
        replace=lambda text: resolver.replace(text, namespace),
        config_maps=config_maps,
        secrets=secrets,
        volumes=volumes_of(pod, state, secrets),
        base=base_environment(role),
        forced={
            "GOODSPEED_ADDRESS": address,
            "GOODSPEED_CACHE": str(cache),
            # Whoever reads these logs reads them in an editor.
            "GOODSPEED_LOG_FORMAT": "text",
        },
    )
    container = pod["spec"]["containers"][0]
    command = resolve(pod, container, around)
    port = next((p["containerPort"] for p in container.get("ports", ()) if p.get("name") == "http"), 0)
    return Member(pod, around, role, labels.get(POOL_LABEL, ""), command.variable("GOODSPEED_MODEL"), port)


def volumes_of(pod: Manifest, state: Path, secrets: Secrets) -> dict[str, Path]:
    """Folders on this machine for a pod's volumes, made where they are not there.

    Raises:
        ContainerError: a Secret that one mounts is not there.
    """
    found: dict[str, Path] = {}
    for volume in pod["spec"].get("volumes", ()):
        match volume:
            case {"emptyDir": _}:
                folder = state / "volumes" / pod["metadata"]["name"] / volume["name"]
            case {"persistentVolumeClaim": {"claimName": claim}}:
                folder = state / "claims" / claim
            case {"hostPath": {"path": path}}:
                found[volume["name"]] = Path(path)
                continue
            case _:
                if sources := secret_sources(volume):
                    folder = state / _SECRETS / pod["metadata"]["name"] / volume["name"]
                    write_secrets(pod, volume["name"], sources, secrets, folder)
                    found[volume["name"]] = folder.resolve()
                continue
        folder.mkdir(parents=True, exist_ok=True)
        found[volume["name"]] = folder.resolve()
    return found


def base_environment(role: str) -> dict[str, str]:
    """The user's environment, less what would configure servers behind the manifests' back."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("GOODSPEED_")}
    # The console scripts stand beside the interpreter, whether or not its environment was activated.
    base["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)])
    # One thread a drafter: they share the cores with the verifier, whose passes are the long ones.
    base["GOODSPEED_THREADS"] = str(os.cpu_count() or 1) if role == "verifier" else "1"
    base.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    base.setdefault("TOKENIZERS_PARALLELISM", "false")
    base["PYTHONUNBUFFERED"] = "1"
    return base
