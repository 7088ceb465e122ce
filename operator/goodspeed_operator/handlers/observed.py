"""What the watches have shown: the operator's only memory of the cluster.

Everything here can be lost and is rebuilt from the API. It keeps little of
each object (its identity, status, and a digest of all that is not status), so
that thousands of children fit in a small pod, and it answers the one question
that keeps the operator quiet at rest: is this child still as we applied it?
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from goodspeed_operator.cluster.client import FIELD_MANAGER, FIELD_MANAGERS
from goodspeed_operator.cluster.kinds import CLUSTER, Kind, Manifest
from goodspeed_operator.cluster.ownership import intruders
from goodspeed_operator.resources.naming import CLUSTER_LABEL

REMEMBERED_DELETIONS = 4096


@dataclass(frozen=True, slots=True)
class Key:
    """Names one GoodSpeedCluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Child:
    """Names one object that belongs to a cluster."""

    kind: Kind
    namespace: str
    name: str

    @classmethod
    def of(cls, kind: Kind, manifest: Mapping[str, Any]) -> Child:
        """The name of ``manifest``, which has that kind."""
        return cls(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class Observation:
    """One child as last seen.

    Attributes:
        digest: of everything but status and what the API server stamps by itself.
        metadata: name, uid, labels, annotations, generation, deletionTimestamp.
        spec: the few fields of the spec that status is computed from.
        status: whole.
        owns_replicas: our field manager owns ``spec.replicas``.
        intruded: others own fields that decide what runs, ``spec.replicas`` aside.
        intruded_replicas: others own some of them, or ``spec.replicas``.
        version: of the resource; an older observation never replaces a newer one.
    """

    digest: str
    metadata: dict[str, Any]
    spec: dict[str, Any]
    status: dict[str, Any]
    owns_replicas: bool = False
    intruded: bool = False
    intruded_replicas: bool = False
    version: int = field(default=0, compare=False)


_KEPT_METADATA = (
    "name",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "ownerReferences",
)
_STAMPED = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "selfLink")
_KEPT_SPEC = ("replicas", "nodeName")


def digest_of(body: Mapping[str, Any]) -> str:
    """A digest that changes when anybody edits the object, and not when its status does."""
    metadata = {key: value for key, value in body.get("metadata", {}).items() if key not in _STAMPED}
    rest = {
        key: value for key, value in body.items() if key not in {"metadata", "status", "apiVersion", "kind"}
    }
    text = json.dumps([metadata, rest], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def version_of(metadata: Mapping[str, Any]) -> int:
    """The resource version as a number, which Kubernetes lets compare; 0 when it is none."""
    text = str(metadata.get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0


def observe(body: Mapping[str, Any]) -> Observation:
    """Keeps what is needed of an object."""
    metadata = body.get("metadata", {})
    spec = body.get("spec") or {}
    return Observation(
        digest=digest_of(body),
        metadata={key: metadata[key] for key in _KEPT_METADATA if key in metadata},
        spec={key: spec[key] for key in _KEPT_SPEC if key in spec},
        status=dict(body.get("status") or {}),
        owns_replicas=any(
            "f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {})
            for entry in metadata.get("managedFields") or ()
            if entry.get("manager") == FIELD_MANAGER and not entry.get("subresource")
        ),
        intruded=intruders(metadata.get("managedFields") or (), FIELD_MANAGERS, replicas=False),
        intruded_replicas=intruders(metadata.get("managedFields") or (), FIELD_MANAGERS, replicas=True),
        version=version_of(metadata),
    )


class Observed:
    """Clusters and their children as the watches last showed them."""

    def __init__(self) -> None:
        self._clusters: dict[Key, Manifest] = {}
        self._children: defaultdict[Key, dict[Child, Observation]] = defaultdict(dict)
        self._keys: dict[Child, Key] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()

    def see_cluster(self, body: Manifest) -> Key:
        """Remembers a cluster, unless a newer state of it is known."""
        metadata = body["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        known, version = self._clusters.get(key), version_of(metadata)
        newest = known is None or version_of(known["metadata"]) <= version
        if newest and not self._buried(metadata.get("uid", ""), version):
            kept = {name: value for name, value in metadata.items() if name != "managedFields"}
            self._clusters[key] = {**body, "metadata": kept}
        return key

    def forget_cluster(self, key: Key, body: Manifest | None = None) -> None:
        """The cluster is gone, last seen as ``body``; its children go by garbage collection."""
        known = self._clusters.get(key)
        if body is not None:
            self._bury(body["metadata"])
            if known is not None and known["metadata"].get("uid") != body["metadata"].get("uid"):
                return
        self._clusters.pop(key, None)

    def cluster(self, key: Key) -> Manifest | None:
        """The cluster as last seen."""
        return self._clusters.get(key)

    def clusters(self) -> Iterator[Key]:
        """All clusters there are."""
        return iter(list(self._clusters))

    def see_child(self, kind: Kind, body: Manifest, *, deleted: bool) -> Key | None:
        """Remembers or forgets a child; returns its cluster's key when something changed.

        What arrives late changes nothing: the answer to a call may come after the
        watch has shown what somebody did to the object since, its deletion included.
        """
        child = Child.of(kind, body)
        key = self._key_of(child, body["metadata"])
        if key is None:
            return None
        uid = body["metadata"].get("uid", "")
        if deleted:
            self._bury(body["metadata"])
            known = self._children.get(key, {}).get(child)
            if known is None or known.metadata.get("uid", "") != uid:
                return None
            self._forget(key, child)
            return key
        seen, known = observe(body), self._children.get(key, {}).get(child)
        if self._buried(uid, seen.version):
            return None
        if known is not None and known.version > seen.version > 0:
            return None
        self._children[key][child] = seen
        self._keys[child] = key
        return None if known == seen else key

    def _key_of(self, child: Child, metadata: Mapping[str, Any]) -> Key | None:
        """Whose child it is: by what was known before, by owner or by label; each of them can be edited."""
        if child in self._keys:
            return self._keys[child]
        owners = metadata.get("ownerReferences") or ()
        name = next((owner["name"] for owner in owners if owner.get("kind") == CLUSTER.kind), None)
        name = name or (metadata.get("labels") or {}).get(CLUSTER_LABEL)
        return Key(child.namespace, name) if name else None

    def _bury(self, metadata: Mapping[str, Any]) -> None:
        """Remembers a deletion; one that lost its labels looks deleted too, and may come back newer."""
        self._gone[metadata.get("uid", "")] = version_of(metadata)
        while len(self._gone) > REMEMBERED_DELETIONS:
            self._gone.popitem(last=False)

    def _buried(self, uid: str, version: int) -> bool:
        return bool(uid) and version <= self._gone.get(uid, -1)

    def _forget(self, key: Key, child: Child) -> None:
        del self._children[key][child]
        self._keys.pop(child, None)
        if not self._children[key]:
            del self._children[key]

    def keep_only(
        self, found: set[tuple[Kind, str, str]], kinds: Collection[Kind], namespace: str
    ) -> set[Key]:
        """Forgets children that a full listing did not show; returns the clusters that lost one.

        A watch that was interrupted never tells of what was deleted meanwhile.

        Args:
            found: (kind, namespace, name) of all that the listing showed.
            kinds: that were listed.
            namespace: that was listed; empty for all.
        """
        lost: set[Key] = set()
        for key, children in list(self._children.items()):
            if namespace and key.namespace != namespace:
                continue
            for child in list(children):
                if child.kind in kinds and (child.kind, child.namespace, child.name) not in found:
                    del children[child]
                    self._keys.pop(child, None)
                    lost.add(key)
            if not children:
                del self._children[key]
        return lost

    def children(self, key: Key) -> Mapping[Child, Observation]:
        """The cluster's children, pods included, as last seen."""
        return self._children.get(key, {})


class AppliedDigests:
    """What each child looked like right after we applied it, and what we had asked for.

    A child needs no call as long as what we ask for is the same and it still
    looks as it did then.
    """

    def __init__(self) -> None:
        self._applied: dict[Child, tuple[str, str]] = {}

    def current(self, child: Child, desired: Manifest, seen: Observation | None) -> bool:
        """Whether ``child`` is known to be as ``desired`` would make it."""
        return seen is not None and self._applied.get(child) == (digest_of(desired), seen.digest)

    def record(self, child: Child, desired: Manifest, stored: Manifest) -> None:
        """Remembers what the API stored for what we asked."""
        self._applied[child] = (digest_of(desired), digest_of(stored))

    def forget(self, child: Child) -> None:
        """The child is gone."""
        self._applied.pop(child, None)
