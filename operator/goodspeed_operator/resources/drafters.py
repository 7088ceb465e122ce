"""The drafters' workloads: a Deployment and Service per pool, and one entry Service for all."""

from __future__ import annotations

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.drafters import DrafterPool
from goodspeed_operator.resources.assignments import Cells
from goodspeed_operator.resources.configuration import digest, drafter_config
from goodspeed_operator.resources.naming import (
    DRAFTER,
    DRAFTER_HTTP_PORT,
    REVISION_LABEL,
    Manifest,
    drafters_name,
    labels,
    manifest,
    pool_name,
    selector,
)
from goodspeed_operator.resources.pods import pod_template

PROGRESS_MARGIN_SECONDS = 600
"""Beyond a pod's start: for scheduling, pulling the image and fetching the model."""


def _service(cluster: GoodSpeedCluster, name: str, **pool: str) -> Manifest:
    head = manifest(cluster, "v1", "Service", name, DRAFTER, **pool)
    return {
        **head,
        "spec": {
            "selector": selector(cluster, DRAFTER, **pool),
            "ports": [{"name": "http", "port": DRAFTER_HTTP_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def entry_service(cluster: GoodSpeedCluster) -> Manifest:
    """The one address for users who do not mind which pool answers."""
    return _service(cluster, drafters_name(cluster))


def replicas_of(pool: DrafterPool, decided: int | None) -> int | None:
    """How many drafters the Deployment should have; None where someone else decides."""
    if pool.scaling == "External":
        return None
    wanted = pool.replicas if decided is None else decided
    return max(pool.fewest, min(pool.most, wanted))


def pool_manifests(
    cluster: GoodSpeedCluster,
    pool: DrafterPool,
    *,
    attached: Cells,
    ordinals: tuple[int, ...],
    replicas: int | None,
    image: str,
) -> list[Manifest]:
    """ConfigMap, Service and Deployment of one pool.

    Args:
        cluster: whose pool it is.
        pool: the pool.
        attached: the cells that it drafts for.
        ordinals: of those cells.
        replicas: decided by rebalancing, or None.
        image: for pods that name none.
    """
    config = drafter_config(cluster, pool, attached, ordinals)
    name = pool_name(cluster, pool.name)
    chosen = selector(cluster, DRAFTER, pool=pool.name)
    template = pod_template(
        cluster,
        pool,
        component=DRAFTER,
        labels={**labels(cluster, DRAFTER, pool=pool.name), REVISION_LABEL: attached.revision},
        selector=chosen,
        config=name,
        config_hash=digest(config["data"]),
        models=[attached.target.model, pool.model],
        ports={"http": DRAFTER_HTTP_PORT},
        image=image,
    )
    spec: Manifest = {
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": pool.startup_seconds + PROGRESS_MARGIN_SECONDS,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": chosen},
        "template": template,
    }
    decided = replicas_of(pool, replicas)
    if decided is not None:
        spec["replicas"] = decided
    head = manifest(cluster, "apps/v1", "Deployment", name, DRAFTER, pool=pool.name)
    head["metadata"]["labels"][REVISION_LABEL] = attached.revision
    return [config, _service(cluster, name, pool=pool.name), {**head, "spec": spec}]
