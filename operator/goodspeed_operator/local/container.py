"""Resolves a container of a pod into a command that this machine can run.

Environment is put together in Kubernetes' order and expanded by its rules;
names become addresses, mount paths become folders. What only an image or a
kernel namespace could give (users, read-only roots, limits) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goodspeed_operator.local.expansion import Manifest
from goodspeed_operator.local.probe import Probe

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")

_TEMPORARY = "/tmp"  # noqa: S108 - a mount path


class ContainerError(ValueError):
    """A container cannot run here; the message names pod, field and fix."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pod finds around it.

    Attributes:
        address: the pod's.
        replace: puts addresses in the place of names.
        config_maps: data by (namespace, name).
        secrets: data by (namespace, name).
        volumes: folder or file by volume name.
        base: environment that every process starts from.
        forced: environment that wins over the manifest, since this machine decides it.
    """

    address: str
    replace: Callable[[str], str] = str
    config_maps: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    volumes: Mapping[str, Path] = field(default_factory=dict)
    base: Mapping[str, str] = field(default_factory=dict)
    forced: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Command:
    """A container, ready to start."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    startup: Probe | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None

    def variable(self, name: str) -> str:
        """A variable's value, empty if it is not set."""
        return self.environment.get(name, "")


def resolve(pod: Manifest, container: Mapping[str, Any], around: Surroundings) -> Command:
    """The command of one container, init containers included.

    Raises:
        ContainerError: it has no command, or needs what is not there.
    """
    where = f"pod {pod['metadata']['name']}, container {container['name']}"
    declared = _environment(pod, container, around, where)
    argv = [*container.get("command", ()), *container.get("args", ())]
    if not container.get("command"):
        raise ContainerError(f"{where}: set command; without its image nothing says what to run")
    mounted = _mounts(container, around)
    # The user's files in /tmp stay theirs; a pod's own go where TMPDIR says.
    folders = {path: folder for path, folder in mounted.items() if path != _TEMPORARY}

    def local(text: str) -> str:
        return _relocate(around.replace(text), folders)

    environment = dict(around.base)
    if _TEMPORARY in mounted:
        environment["TMPDIR"] = str(mounted[_TEMPORARY])
    environment |= {name: local(value) for name, value in declared.items()}
    environment |= around.forced
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", ()) if "name" in port}

    def probe(kind: str) -> Probe | None:
        manifest = container.get(kind)
        try:
            return Probe.parse(manifest, ports) if manifest else None
        except ValueError as error:
            raise ContainerError(f"{where}, {kind}: {error}") from error

    return Command(
        name=container["name"],
        argv=tuple(local(_expand(text, declared)) for text in argv),
        environment=environment,
        startup=probe("startupProbe"),
        readiness=probe("readinessProbe"),
        liveness=probe("livenessProbe"),
    )


def _environment(
    pod: Manifest, container: Mapping[str, Any], around: Surroundings, where: str
) -> dict[str, str]:
    values: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        prefix = source.get("prefix", "")
        data = _data(pod, source, "configMapRef", "secretRef", around, where)
        values |= {prefix + name: value for name, value in data.items()}
    for entry in container.get("env", ()):
        if "valueFrom" not in entry:
            values[entry["name"]] = _expand(entry.get("value") or "", values)
            continue
        value = _value_from(pod, entry, around, where)
        if value is not None:
            values[entry["name"]] = value
    return values


def _value_from(pod: Manifest, entry: Mapping[str, Any], around: Surroundings, where: str) -> str | None:
    source = entry["valueFrom"]
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"], around, where)
    reference = source.get("configMapKeyRef") or source.get("secretKeyRef")
    if reference is None:
        raise ContainerError(f"{where}, env {entry['name']}: valueFrom {sorted(source)} has no meaning here")
    if "secretKeyRef" in source and entry["name"] in around.base:
        return around.base[entry["name"]]
    data = _data(pod, source, "configMapKeyRef", "secretKeyRef", around, where, entry["name"])
    if reference["key"] in data:
        return data[reference["key"]]
    if reference.get("optional"):
        return None
    raise ContainerError(f"{where}, env {entry['name']}: {reference['name']} has no key {reference['key']!r}")


def _data(
    pod: Manifest,
    source: Mapping[str, Any],
    config_map: str,
    secret: str,
    around: Surroundings,
    where: str,
    variable: str = "",
) -> Mapping[str, str]:
    kind, found = (config_map, around.config_maps) if config_map in source else (secret, around.secrets)
    reference = source[kind]
    key = (pod["metadata"].get("namespace", "default"), reference["name"])
    if key in found:
        return found[key]
    if reference.get("optional"):
        return {}
    what = "ConfigMap" if kind == config_map else "Secret"
    fix = f"; export {variable} to give its value" if variable and what == "Secret" else ""
    raise ContainerError(f"{where}: {what} {reference['name']} is not there{fix}")


def _field(pod: Manifest, path: str, around: Surroundings, where: str) -> str:
    metadata, spec = pod["metadata"], pod["spec"]
    match path:
        case "metadata.name" | "metadata.namespace" | "metadata.uid":
            return str(metadata.get(path.removeprefix("metadata."), ""))
        case "status.podIP" | "status.podIPs" | "status.hostIP" | "status.hostIPs":
            return around.address
        case "spec.nodeName" | "spec.serviceAccountName":
            return str(spec.get(path.removeprefix("spec."), "localhost"))
    if match := _SUBSCRIPT.fullmatch(path):
        return str((metadata.get(match[1]) or {}).get(match[2], ""))
    raise ContainerError(f"{where}: fieldRef {path!r} has no meaning here")


def _expand(text: str, values: Mapping[str, str]) -> str:
    """Kubernetes' ``$(NAME)``; ``$$`` is a dollar, and what is not set stays as it is."""

    def one(match: re.Match[str]) -> str:
        return "$" if match[1] is None else values.get(match[1], match[0])

    return _REFERENCE.sub(one, text)


def _mounts(container: Mapping[str, Any], around: Surroundings) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for mount in container.get("volumeMounts", ()):
        if mount["name"] in around.volumes:
            folder = around.volumes[mount["name"]]
            folders[mount["mountPath"].rstrip("/")] = folder / mount.get("subPath", "")
    return folders


def _relocate(text: str, folders: Mapping[str, Path]) -> str:
    if not folders:
        return text
    paths = "|".join(re.escape(path) for path in sorted(folders, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])({paths})(?=$|[/:,\s])", lambda match: str(folders[match[1]]), text)
