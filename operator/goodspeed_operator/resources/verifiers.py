"""The verifiers' workloads: a StatefulSet per target behind one headless Service."""

from __future__ import annotations

import json

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.target import Target
from goodspeed_operator.api.verifier import Verifier
from goodspeed_operator.resources.assignments import Cells
from goodspeed_operator.resources.configuration import digest, verifier_config
from goodspeed_operator.resources.naming import (
    GRPC_PORT,
    SERVES,
    VERIFIER,
    VERIFIER_HTTP_PORT,
    Manifest,
    cells_name,
    labels,
    manifest,
    selector,
    verifiers_name,
)
from goodspeed_operator.resources.pods import pod_template


def verifier_service(cluster: GoodSpeedCluster) -> Manifest:
    """The headless Service that gives every cell its stable name.

    Names are published before a cell is ready: a drafter that waits for its
    cell needs a refused connection, not a name that does not exist.
    """
    head = manifest(cluster, "v1", "Service", verifiers_name(cluster), VERIFIER)
    return {
        **head,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(cluster, VERIFIER),
            "ports": [
                {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "protocol": "TCP"},
                {"name": "http", "port": VERIFIER_HTTP_PORT, "targetPort": "http", "protocol": "TCP"},
            ],
        },
    }


def verifier_cells(
    cluster: GoodSpeedCluster, cells: Cells, *, image: str, budget: int | None
) -> list[Manifest]:
    """ConfigMap and StatefulSet of one target's cells.

    The StatefulSet says in an annotation what it serves, so that `cells_from`
    can render it again, unchanged, when the spec asks for another target.
    """
    config = verifier_config(cluster, cells, budget)
    name, revision = cells_name(cluster, cells.revision), cells.revision
    chosen = selector(cluster, VERIFIER, revision=revision)
    serves = json.dumps(
        {"target": cells.target.plain(), "verifier": cells.verifier.plain()},
        sort_keys=True,
        separators=(",", ":"),
    )
    head = manifest(cluster, "apps/v1", "StatefulSet", name, VERIFIER, revision=revision)
    head["metadata"]["annotations"] = {SERVES: serves}
    template = pod_template(
        cluster,
        cells.verifier,
        component=VERIFIER,
        labels=labels(cluster, VERIFIER, revision=revision),
        selector=chosen,
        config=name,
        config_hash=digest(config["data"]),
        models=[cells.target.model],
        ports={"grpc": GRPC_PORT, "http": VERIFIER_HTTP_PORT},
        image=image,
    )
    workload = {
        **head,
        "spec": {
            "replicas": cells.replicas,
            "serviceName": verifiers_name(cluster),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": chosen},
            "template": template,
        },
    }
    return [config, workload]


def cells_from(annotation: str, replicas: int) -> Cells:
    """The cells that a StatefulSet's ``goodspeed.io/serves`` annotation speaks of.

    Raises:
        ValueError: somebody else wrote the annotation.
    """
    try:
        served = json.loads(annotation)
        target = Target.model_validate(served["target"])
        verifier = Verifier.model_validate(served["verifier"])
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{SERVES} is not as the operator wrote it") from error
    return Cells(target, verifier, replicas)
