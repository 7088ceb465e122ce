"""Merges a podTemplate override over ours, as a strategic merge patch would.

Mappings merge field by field, lists of named things by name, and every other
list or value is replaced. null takes a field away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}


def merged(ours: Any, override: Any, field: str = "") -> Any:
    """``ours`` with ``override`` laid over it; neither is changed."""
    if isinstance(ours, Mapping) and isinstance(override, Mapping):
        result = {
            key: value for key, value in ours.items() if key not in override or override[key] is not None
        }
        for key, value in override.items():
            if value is not None:
                result[key] = merged(ours.get(key), value, key)
        return result
    if isinstance(ours, list) and isinstance(override, list) and field in _KEYS:
        return _merged_list(ours, override, _KEYS[field])
    return override


def _merged_list(ours: list[Any], override: list[Any], key: str) -> list[Any]:
    if not all(
        isinstance(item, Mapping) and isinstance(item.get(key), str | int) for item in (*ours, *override)
    ):
        return override  # for Kubernetes to refuse
    laid = {item[key]: item for item in override}
    known = {item[key] for item in ours}
    return [merged(item, laid.get(item[key], {})) for item in ours] + [
        item for item in override if item[key] not in known
    ]
