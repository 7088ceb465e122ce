"""The pod template of a server: one container, models fetched before it starts, restricted security."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.model_uri import claim_of
from goodspeed_operator.api.pods import Pods
from goodspeed_operator.resources.configuration import CACHE_PATH, KEYS_PATH, keyed
from goodspeed_operator.resources.naming import CONFIG_HASH, DRAFTER, Manifest
from goodspeed_operator.resources.override import merged

USER = 65532
PVC_ROOT = "/var/run/goodspeed/pvc"
STARTUP_PERIOD_SECONDS = 2
DEREGISTER_SECONDS = 5
"""A stopping pod keeps serving this long, until every proxy knows that it is going."""
FAREWELL_SECONDS = 10
"""After the drain, until the process must have ended."""

_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod_template(
    cluster: GoodSpeedCluster,
    pods: Pods,
    *,
    component: str,
    labels: dict[str, str],
    selector: dict[str, str],
    config: str,
    config_hash: str,
    models: Iterable[str],
    ports: dict[str, int],
    image: str,
) -> Manifest:
    """The template of one role's pods.

    Args:
        cluster: whose pods they are.
        pods: what the spec says about them.
        component: ``verifier`` or ``drafter``; names the container and, after ``goodspeed-``, its command.
        labels: of the pods.
        selector: the labels among them that a podTemplate override must not change.
        config: name of the ConfigMap with the server's environment.
        config_hash: of its data.
        models: URIs that must be there before the server starts.
        ports: name to number; ``http`` answers the probes.
        image: for pods that name none.
    """
    uris = list(dict.fromkeys(uri for uri in models if not uri.startswith(("ngram://", "builtin://"))))
    volumes, mounts = _volumes(cluster, uris)
    key_volumes, key_mounts = _keys(cluster) if component == DRAFTER else ([], [])
    common: Manifest = {
        "image": pods.image or cluster.spec.image or image,
        "envFrom": [{"configMapRef": {"name": config}}],
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": mounts,
        # The end of a log becomes part of the pod's status, and so of the cluster's conditions.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if cluster.spec.image_pull_policy:
        common["imagePullPolicy"] = cluster.spec.image_pull_policy
    spec: Manifest = {
        "automountServiceAccountToken": False,
        # A cluster named goodspeed would otherwise put GOODSPEED_VERIFIER_PORT and the like into every pod.
        "enableServiceLinks": False,
        "serviceAccountName": f"{cluster.name}-{_account(component)}",
        "securityContext": _POD_SECURITY,
        "terminationGracePeriodSeconds": DEREGISTER_SECONDS + pods.drain_seconds + FAREWELL_SECONDS,
        "initContainers": [_fetch(cluster, common, uris)] if uris else [],
        "containers": [
            _server(cluster, pods, component, {**common, "volumeMounts": mounts + key_mounts}, ports)
        ],
        "volumes": volumes + key_volumes,
        **_placement(cluster, pods, selector),
    }
    ours = {
        "metadata": {"labels": labels, "annotations": {CONFIG_HASH: config_hash}},
        "spec": {key: value for key, value in spec.items() if value not in ([], {}, None)},
    }
    template: Manifest = merged(ours, pods.pod_template)
    return merged(template, {"metadata": {"labels": selector, "annotations": {CONFIG_HASH: config_hash}}})  # type: ignore[no-any-return]


def _account(component: str) -> str:
    return "verifier" if component == "verifier" else "drafters"


def _server(
    cluster: GoodSpeedCluster, pods: Pods, component: str, common: Manifest, ports: dict[str, int]
) -> Manifest:
    resources = pods.resources.plain()
    env: list[Manifest] = [
        {"name": "GOODSPEED_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]
    if not pods.resources.gpus:
        # Where the NVIDIA runtime is the node's default, a pod that takes no GPU would see them all.
        env.append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})
    return {
        **common,
        "name": component,
        "command": [f"goodspeed-{component}"],
        "env": env + _hub(cluster),
        "ports": [
            {"name": name, "containerPort": number, "protocol": "TCP"} for name, number in ports.items()
        ],
        "resources": {key: value for key, value in resources.items() if value},
        "startupProbe": _probe(
            "/healthz", STARTUP_PERIOD_SECONDS, math.ceil(pods.startup_seconds / STARTUP_PERIOD_SECONDS)
        ),
        "readinessProbe": _probe("/readyz", 5, 2),
        "livenessProbe": _probe("/healthz", 10, 6),
        "lifecycle": {"preStop": {"sleep": {"seconds": DEREGISTER_SECONDS}}},
    }


def _fetch(cluster: GoodSpeedCluster, common: Manifest, uris: list[str]) -> Manifest:
    return {
        **common,
        "name": "models",
        "command": ["goodspeed", "models", "pull", *uris],
        **({"env": hub} if (hub := _hub(cluster)) else {}),
    }


def _hub(cluster: GoodSpeedCluster) -> list[Manifest]:
    token = cluster.spec.hugging_face.token_secret
    if token is None:
        return []
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": token.name, "key": token.key}}}]


def _probe(path: str, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _volumes(cluster: GoodSpeedCluster, uris: list[str]) -> tuple[list[Manifest], list[Manifest]]:
    cache = cluster.spec.model_cache
    if cache.persistent_volume_claim:
        source: Manifest = {"persistentVolumeClaim": cache.persistent_volume_claim.plain()}
    elif cache.host_path:
        source = {"hostPath": {**cache.host_path.plain(), "type": "DirectoryOrCreate"}}
    else:
        empty = cache.empty_dir.plain() if cache.empty_dir else {}
        source = {"emptyDir": {key: value for key, value in empty.items() if value}}
    volumes: list[Manifest] = [{"name": "cache", **source}, {"name": "tmp", "emptyDir": {}}]
    mounts: list[Manifest] = [
        {"name": "cache", "mountPath": CACHE_PATH},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
    ]
    claims = dict.fromkeys(claim for uri in uris if (claim := claim_of(uri)))
    for number, claim in enumerate(claims):
        volumes.append(
            {"name": f"models-{number}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        )
        mounts.append({"name": f"models-{number}", "mountPath": f"{PVC_ROOT}/{claim}", "readOnly": True})
    return volumes, mounts


def _keys(cluster: GoodSpeedCluster) -> tuple[list[Manifest], list[Manifest]]:
    """Keys of tenants as files, which the kubelet keeps current; a pod does not start without its Secrets."""
    sources = [
        {"secret": {"name": secret.name, "items": [{"key": secret.key, "path": tenant.name}]}}
        for tenant in keyed(cluster)
        if (secret := tenant.api_key_secret_ref)
    ]
    if not sources:
        return [], []
    volume = {"name": "tenants", "projected": {"defaultMode": 0o440, "sources": sources}}
    return [volume], [{"name": "tenants", "mountPath": KEYS_PATH, "readOnly": True}]


def _placement(cluster: GoodSpeedCluster, pods: Pods, selector: dict[str, str]) -> dict[str, Any]:
    return {
        "nodeSelector": pods.node_selector,
        "tolerations": [toleration.plain() for toleration in pods.tolerations],
        "affinity": _dense(pods.affinity.plain()) if pods.affinity else None,
        "topologySpreadConstraints": [
            {"labelSelector": {"matchLabels": selector}, **_dense(constraint.plain())}
            for constraint in pods.topology_spread_constraints
        ],
        "priorityClassName": pods.priority_class_name,
        "imagePullSecrets": [secret.plain() for secret in cluster.spec.image_pull_secrets],
    }


def _dense(value: Any) -> Any:
    """Without empty lists, which some fields of the Kubernetes API refuse where they allow none at all."""
    if isinstance(value, dict):
        return {key: _dense(item) for key, item in value.items() if item != []}
    return [_dense(item) for item in value] if isinstance(value, list) else value
