"""The whole fleet: from a cluster and its assignments to every manifest, in the order to apply them."""

from __future__ import annotations

from importlib.metadata import version

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.resources.assignments import Assignments, cells_of_pools, current_cells
from goodspeed_operator.resources.drafters import entry_service, pool_manifests
from goodspeed_operator.resources.naming import Manifest
from goodspeed_operator.resources.policies import (
    disruption_budgets,
    network_policies,
    pod_monitor,
    service_accounts,
)
from goodspeed_operator.resources.verifiers import verifier_cells, verifier_service

RUNTIME_IMAGE = f"goodspeed/runtime:{version('goodspeed')}"


def desired(
    cluster: GoodSpeedCluster,
    assignments: Assignments | None = None,
    *,
    image: str = RUNTIME_IMAGE,
    pod_monitors: bool = False,
) -> list[Manifest]:
    """Everything that should be there, a pure function of its arguments.

    Args:
        cluster: the spec, and the name, namespace and uid of the owner.
        assignments: what the operator has decided; None decides nothing.
        image: of verifiers and drafters where the spec names none.
        pod_monitors: whether the API server knows PodMonitors.

    Returns:
        Manifests without duplicates, in the order to apply them: what pods need comes before the pods.
    """
    decided = assignments or Assignments()
    cells = decided.cells or (current_cells(cluster.spec),)
    newest = next((each for each in cells if each.target.model == cluster.spec.target.model), cells[-1])
    attached = next((each for each in cells if each.revision == decided.attached), newest)
    ordinals = cells_of_pools(cluster.spec, decided.pools, attached.replicas)

    result = [*service_accounts(cluster), *network_policies(cluster), *disruption_budgets(cluster)]
    result += [verifier_service(cluster), entry_service(cluster)]
    for each in cells:
        result += verifier_cells(cluster, each, image=image, budget=decided.budget)
    for pool in cluster.spec.drafters:
        result += pool_manifests(
            cluster,
            pool,
            attached=attached,
            ordinals=ordinals[pool.name],
            replicas=decided.replicas.get(pool.name),
            image=image,
        )
    if pod_monitors and cluster.spec.monitoring.pod_monitor:
        result.append(pod_monitor(cluster))
    return result
