"""What `up` and `demo` themselves send along where drafters ask for a key."""

from __future__ import annotations

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.secrets import Secrets


def credentials(cluster: GoodSpeedCluster, secrets: Secrets) -> dict[str, str]:
    """Headers with the first tenant's key; none where there are no keys, or not in the file."""
    for tenant in cluster.spec.tenants:
        secret = tenant.api_key_secret_ref
        text = secrets.get((cluster.namespace, secret.name), {}).get(secret.key, "") if secret else ""
        if keys := text.split():
            return {"Authorization": f"Bearer {keys[0]}"}
    return {}
