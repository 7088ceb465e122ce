"""Who owns which field of an object, by its managedFields, and how to take fields over.

Server-side apply restores what others changed in our fields, and leaves what
they added: a key in a ConfigMap, a port, a container. In an object that is
ours alone an addition is drift too. So that the next apply removes it, it is
first written down as ours. Pure functions; the calls are the reconciler's.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

Fields = dict[str, Any]

CONTROLLERS = frozenset({"kube-controller-manager", "kube-scheduler"})
"""What they write is theirs: revisions, node ports, bindings."""


def intruders(entries: Sequence[Mapping[str, Any]], ours: Collection[str], *, replicas: bool) -> bool:
    """Whether others own fields that decide what runs.

    Args:
        entries: the object's ``metadata.managedFields``.
        ours: our own field managers.
        replicas: ``spec.replicas`` is ours to set.
    """
    return any(_foreign(entry, ours) and _claim(entry, replicas)[0] for entry in entries)


def taken_over(
    entries: Sequence[Mapping[str, Any]], manager: str, ours: Collection[str], *, replicas: bool
) -> list[dict[str, Any]]:
    """The managedFields after what others own has become ``manager``'s.

    Labels and annotations stay whose they are, those of the pod template included:
    `kubectl rollout restart` writes one, and means it.

    Args:
        entries: the object's ``metadata.managedFields``.
        manager: takes the fields over.
        ours: our own field managers.
        replicas: ``spec.replicas`` is ours to set.
    """
    result: list[dict[str, Any]] = []
    claimed: Fields = {}
    for entry in entries:
        if not _foreign(entry, ours):
            result.append(copy.deepcopy(dict(entry)))
            continue
        claim, rest = _claim(entry, replicas)
        claimed = _union(claimed, claim)
        if rest:
            result.append({**entry, "fieldsV1": rest})
    for entry in result:
        if entry.get("manager") == manager and entry.get("operation") == "Apply":
            entry["fieldsV1"] = _union(entry.get("fieldsV1") or {}, claimed)
    return result


def _foreign(entry: Mapping[str, Any], ours: Collection[str]) -> bool:
    manager = entry.get("manager")
    return manager not in CONTROLLERS and manager not in ours and not entry.get("subresource")


def _claim(entry: Mapping[str, Any], replicas: bool) -> tuple[Fields, Fields]:
    """Splits an entry's fields into those to claim and those to leave."""
    left: Fields = {}
    claim: Fields = copy.deepcopy(dict(entry.get("fieldsV1") or {}))
    for name in ("f:metadata", "f:status"):
        if name in claim:
            left[name] = claim.pop(name)
    kept: list[tuple[str, ...]] = [("f:spec", "f:template", "f:metadata")]
    if not replicas:
        kept.append(("f:spec", "f:replicas"))
    for path in kept:
        found = _cut(claim, path)
        if found is not None:
            left = _union(left, found)
    return claim, left


def _cut(fields: Fields, path: tuple[str, ...]) -> Fields | None:
    """Removes a path, and what is empty above it; returns it in its place, None when it is not there."""
    name, *rest = path
    if name not in fields:
        return None
    if not rest:
        return {name: fields.pop(name)}
    found = _cut(fields[name], tuple(rest))
    if not fields[name]:
        del fields[name]
    return None if found is None else {name: found}


def _union(one: Mapping[str, Any], other: Mapping[str, Any]) -> Fields:
    result = dict(one)
    for name, value in other.items():
        result[name] = _union(result[name], value) if name in result else value
    return result
