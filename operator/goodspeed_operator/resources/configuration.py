"""What the servers are told: the environment in each role's ConfigMap."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.drafters import DrafterPool
from goodspeed_operator.api.pods import Pods
from goodspeed_operator.api.scalars import amount, seconds
from goodspeed_operator.api.tenants import Tenant
from goodspeed_operator.api.verifier import DEFAULT_PREFIX_SHARING
from goodspeed_operator.resources.assignments import DEFAULT_BUDGET, Cells
from goodspeed_operator.resources.naming import (
    DRAFTER,
    DRAFTER_HTTP_PORT,
    GRPC_PORT,
    VERIFIER,
    VERIFIER_HTTP_PORT,
    Manifest,
    cell_address,
    cells_name,
    manifest,
    pool_name,
)

CACHE_PATH = "/var/cache/goodspeed"
KEYS_PATH = "/var/run/goodspeed/tenants"
"""Folder of the files with tenants' keys, each named after its tenant."""


def _environment(**values: Any) -> dict[str, str]:
    """``GOODSPEED_*`` variables; what is not set is left to the server."""
    return {
        f"GOODSPEED_{name.upper()}": _text(value)
        for name, value in sorted(values.items())
        if value is not None
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _threads(pods: Pods) -> int | None:
    """Threads asked for, or as many as the CPU limit lets run."""
    if pods.threads is not None:
        return pods.threads
    limit = pods.resources.limits.get("cpu")
    return None if limit is None else max(1, math.ceil(amount(limit)))


def _device(pods: Pods) -> str:
    """A pod that takes a GPU must fail when it finds none, not run slowly."""
    return "cuda" if pods.device == "auto" and pods.resources.gpus else pods.device


def verifier_environment(cluster: GoodSpeedCluster, cells: Cells, budget: int | None) -> dict[str, str]:
    """What the cells of one target are told.

    Args:
        cluster: whose cells they are.
        cells: target and verifier settings.
        budget: decided for ``budgetTokens: auto``, in tokens.
    """
    target, verifier, scheduler = cells.target, cells.verifier, cluster.spec.scheduler
    automatic = verifier.budget_tokens == "auto"
    return _environment(
        cluster=cluster.name,
        model=target.model,
        served_model_name=target.served_model_name,
        dtype=target.dtype,
        weights=target.weights,
        max_context_tokens=target.max_context_tokens,
        device=_device(verifier),
        threads=_threads(verifier),
        cache=CACHE_PATH,
        grpc_port=GRPC_PORT,
        http_port=VERIFIER_HTTP_PORT,
        log_format="json",
        budget_tokens=(budget or DEFAULT_BUDGET) if automatic else verifier.budget_tokens,
        # Rebalancing changes C of a running verifier, as far as it has made room for.
        most_budget_tokens=8 * (budget or DEFAULT_BUDGET) if automatic else None,
        latency_target=None if verifier.latency_target is None else seconds(verifier.latency_target),
        verification=verifier.verification,
        barrier=verifier.barrier,
        tenants=",".join(f"{each.name}={_text(float(each.weight))}" for each in cluster.spec.tenants) or None,
        max_sequences=verifier.max_sequences,
        max_waiting=verifier.max_waiting,
        turn_seconds=verifier.turn_seconds,
        prefill_chunk_tokens=verifier.prefill_chunk_tokens,
        prefill_share=verifier.prefill_share,
        # Said only where it is not the server's default: a word more would restart pods that need it not.
        prefix_sharing=None if verifier.prefix_sharing == DEFAULT_PREFIX_SHARING else verifier.prefix_sharing,
        batch_invariant=verifier.batch_invariant or None,
        max_draft_tokens=verifier.max_draft_tokens,
        drain_seconds=verifier.drain_seconds,
        allocator=scheduler.allocator,
        objective=scheduler.objective,
        utility_alpha=scheduler.utility.alpha,
        acceptance_step=scheduler.acceptance_step,
        goodput_step=scheduler.goodput_step,
    )


def _addresses(cluster: GoodSpeedCluster, cells: Cells, ordinals: Sequence[int]) -> str:
    """Cells as drafters know them: by the name that rebalancing uses, and where they listen."""
    name = cells_name(cluster, cells.revision)
    found = ((ordinal, cell_address(cluster, cells.revision, ordinal)) for ordinal in ordinals)
    return ",".join(f"{name}-{ordinal}={address}" for ordinal, address in found)


def drafter_environment(
    cluster: GoodSpeedCluster, pool: DrafterPool, attached: Cells, ordinals: tuple[int, ...]
) -> dict[str, str]:
    """What the drafters of one pool are told.

    Args:
        cluster: whose pool it is.
        pool: the pool.
        attached: the cells that it drafts for.
        ordinals: of those cells.
    """
    target = attached.target
    others = [ordinal for ordinal in range(attached.replicas) if ordinal not in ordinals]
    return _environment(
        cluster=cluster.name,
        pool=pool.name,
        model=pool.model,
        target=target.model,
        served_model_name=target.served_model_name,
        verifier=_addresses(cluster, attached, ordinals),
        cells=_addresses(cluster, attached, others) or None,
        verification=attached.verifier.verification,
        dtype=pool.dtype,
        weights=pool.weights,
        device=_device(pool),
        threads=_threads(pool),
        cache=CACHE_PATH,
        http_port=DRAFTER_HTTP_PORT,
        log_format="json",
        weight=float(pool.weight),
        max_draft_tokens=pool.max_draft_tokens,
        draft_ahead=pool.draft_ahead,
        # Weights are the verifiers' alone: who changes one rolls no drafter.
        tenants=",".join(each.name for each in cluster.spec.tenants) or None,
        tenant_keys=",".join(f"{each.name}={KEYS_PATH}/{each.name}" for each in keyed(cluster)) or None,
        support_size=pool.support_size,
        max_sequences=pool.max_sequences,
        max_waiting=pool.max_waiting,
        max_context_tokens=pool.max_context_tokens,
        request_timeout=pool.request_timeout,
        drain_seconds=pool.drain_seconds,
    )


def keyed(cluster: GoodSpeedCluster) -> list[Tenant]:
    """The tenants whose requests carry a key."""
    return [tenant for tenant in cluster.spec.tenants if tenant.api_key_secret_ref is not None]


def digest(data: dict[str, str]) -> str:
    """Of a ConfigMap's data, for the annotation that rolls pods."""
    return hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=8).hexdigest()


def verifier_config(cluster: GoodSpeedCluster, cells: Cells, budget: int | None) -> Manifest:
    """The ConfigMap of one target's cells."""
    name = cells_name(cluster, cells.revision)
    head = manifest(cluster, "v1", "ConfigMap", name, VERIFIER, revision=cells.revision)
    return {**head, "data": verifier_environment(cluster, cells, budget)}


def drafter_config(
    cluster: GoodSpeedCluster, pool: DrafterPool, attached: Cells, ordinals: tuple[int, ...]
) -> Manifest:
    """The ConfigMap of one pool."""
    head = manifest(cluster, "v1", "ConfigMap", pool_name(cluster, pool.name), DRAFTER, pool=pool.name)
    return {**head, "data": drafter_environment(cluster, pool, attached, ordinals)}
