"""Secrets that a pod mounts, as files that only this user reads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from goodspeed_operator.api.secrets import Secrets
from goodspeed_operator.local.container import ContainerError
from goodspeed_operator.local.expansion import Manifest


def secret_sources(volume: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The Secrets of a volume, each with ``name`` and maybe ``items`` and ``optional``."""
    if "secret" in volume:
        secret = volume["secret"]
        return [{**secret, "name": secret["secretName"]}]
    sources = volume.get("projected", {}).get("sources", ())
    return [source["secret"] for source in sources if "secret" in source]


def write_secrets(
    pod: Manifest,
    volume: str,
    sources: Sequence[Mapping[str, Any]],
    secrets: Secrets,
    folder: Path,
) -> None:
    """Makes ``folder`` hold what Kubernetes would mount, and nothing else.

    Raises:
        ContainerError: a Secret or an entry of it is not there.
    """
    where = f"pod {pod['metadata']['name']}, volume {volume}"
    namespace = pod["metadata"].get("namespace", "default")
    files: dict[str, str] = {}
    for source in sources:
        name, optional = source["name"], bool(source.get("optional"))
        data = secrets.get((namespace, name))
        if data is None and not optional:
            raise ContainerError(
                f"{where}: Secret {name} is not there; put it into the file beside the cluster"
            )
        data = data or {}
        for item in source.get("items") or [{"key": key, "path": key} for key in data]:
            if item["key"] in data:
                files[item["path"]] = data[item["key"]]
            elif not optional:
                raise ContainerError(f"{where}: Secret {name} has no key {item['key']!r}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8")
