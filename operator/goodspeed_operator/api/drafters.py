"""The pools of drafters: identical small models that draft next to their users."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from goodspeed_operator.api.model_uri import DrafterURI
from goodspeed_operator.api.part import Checked, Rule
from goodspeed_operator.api.pods import Pods
from goodspeed_operator.api.scalars import LABEL_PATTERN, least
from goodspeed_operator.api.target import DType, Weights

LONGEST_POOL_NAME = 26

PoolName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_POOL_NAME, pattern=LABEL_PATTERN),
    Checked(
        Rule(
            "self != 'drafters' && self != 'verifier' && !self.startsWith('verifier-')",
            "name must not be drafters, verifier or start with verifier-: these name the fleet's own objects",
            lambda name: name not in {"drafters", "verifier"} and not name.startswith("verifier-"),
        )
    ),
]

Replicas = Annotated[int, Field(ge=0, le=256)]


class DrafterPool(Pods):
    """One pool: identical drafters."""

    rules = (
        Rule(
            "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            "minReplicas must not exceed maxReplicas; lower minReplicas or raise maxReplicas",
            lambda pool: (
                pool.min_replicas is None
                or pool.max_replicas is None
                or pool.min_replicas <= pool.max_replicas
            ),
            "minReplicas",
        ),
        Rule(
            "!has(self.minReplicas) || self.replicas >= self.minReplicas",
            "replicas must not be below minReplicas; raise replicas or lower minReplicas",
            lambda pool: pool.min_replicas is None or pool.replicas >= pool.min_replicas,
            "replicas",
        ),
        Rule(
            "!has(self.maxReplicas) || self.replicas <= self.maxReplicas",
            "replicas must not exceed maxReplicas; lower replicas or raise maxReplicas",
            lambda pool: pool.max_replicas is None or pool.replicas <= pool.max_replicas,
            "replicas",
        ),
        Rule(
            "self.scaling != 'External' || (!has(self.minReplicas) && !has(self.maxReplicas))",
            "minReplicas and maxReplicas have no effect with scaling External; remove them and set bounds in "
            "the autoscaler",
            lambda pool: pool.scaling != "External" or (pool.min_replicas is pool.max_replicas is None),
            "scaling",
        ),
    )

    name: PoolName
    """Name of the pool, unique in the cluster."""
    model: DrafterURI
    """Where the draft model comes from: hf://, pvc://, file://, pypi://, builtin:// or ngram://."""
    dtype: DType = "auto"
    """Number format; auto takes the fastest that the hardware does well."""
    weights: Weights = "model"
    """Of linear layers: the model's, or those rounded to int8, half the memory on a GPU."""
    replicas: Replicas = 1
    """How many drafters to start with; with scaling External, whoever scales the Deployment decides."""
    min_replicas: Replicas | None = None
    """Fewest drafters that rebalancing may leave; without a number, replicas."""
    max_replicas: Replicas | None = None
    """Most drafters that rebalancing may make; without a number, replicas."""
    scaling: Literal["Managed", "External"] = "Managed"
    """Who sets the number of drafters: this resource, or another autoscaler."""
    weight: Annotated[float, Field(ge=0.001, le=1000), least("weight", 0.001)] = 1
    """Share in the utility: a client of weight 2 counts twice."""
    max_draft_tokens: Annotated[int, Field(ge=1, le=64)] = 8
    """Longest draft, in tokens."""
    draft_ahead: bool = True
    """Go on drafting while verdicts are under way."""
    support_size: Annotated[int, Field(ge=1, le=256)] = 32
    """How many of its likeliest tokens a drafter samples from."""
    max_sequences: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Sequences a drafter serves at once; without a number, 16."""
    max_waiting: Annotated[int, Field(ge=0, le=65_536)] | None = None
    """Answers that may wait for one of these, more are refused with 429; without a number, 256."""
    max_context_tokens: Annotated[int, Field(ge=16, le=1_048_576)] | None = None
    """Longest sequence that it drafts for; longer ones go on without drafts; without a number, 2048."""
    request_timeout: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """Longest time that an answer may make no progress, in seconds; without a number, 120."""

    @property
    def fewest(self) -> int:
        """The fewest replicas that rebalancing may leave."""
        return self.replicas if self.min_replicas is None else self.min_replicas

    @property
    def most(self) -> int:
        """The most replicas that rebalancing may make."""
        return self.replicas if self.max_replicas is None else self.max_replicas
