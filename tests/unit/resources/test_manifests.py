"""Whatever the spec, the fleet's manifests are valid, belong together, and are safe to run."""

from __future__ import annotations

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from cluster_matrix import clusters
from hypothesis import HealthCheck, given, settings
from quickstart_fleet import EXAMPLES, one, pod_of, quickstart, workloads

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.loading import load_cluster, parse_cluster
from goodspeed_operator.cluster.kinds import CHILDREN, kind_of
from goodspeed_operator.resources.assignments import Assignments, cells_of_pools, current_cells, revision_of
from goodspeed_operator.resources.fleet import desired
from goodspeed_operator.resources.verifiers import cells_from

VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
# The oldest and the newest at once; those between come with the slow tests.
EACH_VERSION = [
    pytest.param(version, marks=[] if version in (VERSIONS[0], VERSIONS[-1]) else pytest.mark.slow)
    for version in VERSIONS
]
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("version", EACH_VERSION)
@given(cluster=clusters())
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_manifest_is_valid_to_the_letter(version: str, cluster: GoodSpeedCluster) -> None:
    for each in desired(cluster):
        kubernetes_validate.validate(each, version, strict=True)


@given(cluster=clusters())
@quick
def test_names_are_unique_and_fit_into_63_characters(cluster: GoodSpeedCluster) -> None:
    manifests = desired(cluster, pod_monitors=True)
    found = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(set(found)) == len(found)
    for kind, name in found:
        # Ordinals take four characters, a StatefulSet's revision label eleven.
        longest = 63 - 11 if kind == "StatefulSet" else 63
        assert len(name) <= longest, name
        assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)


@given(cluster=clusters())
@quick
def test_every_child_is_of_a_kind_the_operator_may_touch_and_has_its_owner(cluster: GoodSpeedCluster) -> None:
    for each in desired(cluster, pod_monitors=True):
        assert kind_of(each) in CHILDREN
        metadata = each["metadata"]
        assert metadata["labels"]["goodspeed.io/cluster"] == cluster.name
        assert metadata["namespace"] == "serving"
        owners = metadata.get("ownerReferences", [])
        assert [owner["uid"] for owner in owners] == ([cluster.metadata.uid] if cluster.metadata.uid else [])
        for owner in owners:
            assert set(owner) == {"apiVersion", "kind", "name", "uid", "controller"}


@given(cluster=clusters())
@quick
def test_every_selector_chooses_the_pods_it_is_meant_for(cluster: GoodSpeedCluster) -> None:
    manifests = desired(cluster)
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in workloads(manifests)
    }

    def chosen(selector: dict[str, str]) -> set[str]:
        return {name for name, labels in pods.items() if selector.items() <= labels.items()}

    for each in workloads(manifests):
        assert chosen(each["spec"]["selector"]["matchLabels"]) == {each["metadata"]["name"]}
    drafters = {f"{cluster.name}-{pool.name}" for pool in cluster.spec.drafters}
    for each in manifests:
        name = each["metadata"]["name"]
        if each["kind"] == "Service":
            expected = drafters if name.endswith("-drafters") and name not in drafters else {name}
            expected = set(pods) - drafters if name == f"{cluster.name}-verifier" else expected
            assert chosen(each["spec"]["selector"]) == expected


@given(cluster=clusters())
@quick
def test_every_container_of_ours_is_as_restricted_as_pod_security_asks(cluster: GoodSpeedCluster) -> None:
    for each in workloads(desired(cluster)):
        spec = each["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            if "command" not in container:
                continue  # the override's own, which Pod Security judges
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@given(cluster=clusters())
@quick
def test_every_reference_inside_a_pod_leads_somewhere(cluster: GoodSpeedCluster) -> None:
    manifests = desired(cluster)
    have = {(each["kind"], each["metadata"]["name"]) for each in manifests}
    for each in workloads(manifests):
        spec = each["spec"]["template"]["spec"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in have
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
            for source in container.get("envFrom", []):
                assert ("ConfigMap", source["configMapRef"]["name"]) in have
        server = next(c for c in spec["containers"] if c.get("command", [""])[0].startswith("goodspeed-"))
        ports = {port["name"] for port in server["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert server[probe]["httpGet"]["port"] in ports


@given(cluster=clusters())
@quick
def test_a_pod_has_as_long_to_start_and_to_drain_as_the_spec_says(cluster: GoodSpeedCluster) -> None:
    asked = {f"{cluster.name}-{pool.name}": pool for pool in cluster.spec.drafters}
    for each in workloads(desired(cluster)):
        pods = asked.get(each["metadata"]["name"], cluster.spec.verifier)
        spec = each["spec"]["template"]["spec"]
        server = next(c for c in spec["containers"] if "startupProbe" in c)
        probe = server["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= pods.startup_seconds
        sleep = server["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert spec["terminationGracePeriodSeconds"] > sleep + pods.drain_seconds


@given(cluster=clusters())
@quick
def test_drafters_are_attached_to_cells_that_exist(cluster: GoodSpeedCluster) -> None:
    manifests = desired(cluster)
    cells = next(each for each in manifests if each["kind"] == "StatefulSet")
    service = cells["spec"]["serviceName"]
    count = max(1, cells["spec"]["replicas"])
    names = [f"{cells['metadata']['name']}-{i}" for i in range(count)]
    addresses = {f"{name}={name}.{service}:50051" for name in names}
    for pool in cluster.spec.drafters:
        data = one(manifests, "ConfigMap", f"{cluster.name}-{pool.name}")["data"]
        homes = set(data["GOODSPEED_VERIFIER"].split(","))
        others = set(data["GOODSPEED_CELLS"].split(",")) if "GOODSPEED_CELLS" in data else set()
        assert homes
        assert homes | others == addresses
        assert not homes & others
        assert all(isinstance(value, str) for value in data.values())


@given(cluster=clusters())
@quick
def test_every_cell_gets_drafters_when_there_are_enough(cluster: GoodSpeedCluster) -> None:
    cells = cluster.spec.verifier.replicas
    drafters = sum(max(1, pool.replicas) for pool in cluster.spec.drafters)
    used = {cell for cells in cells_of_pools(cluster.spec, {}, cells).values() for cell in cells}
    assert len(used) == min(max(1, cells), drafters)


@given(cluster=clusters())
@quick
def test_an_externally_scaled_pool_says_nothing_of_replicas(cluster: GoodSpeedCluster) -> None:
    manifests = desired(cluster, Assignments(replicas={pool.name: 3 for pool in cluster.spec.drafters}))
    for pool in cluster.spec.drafters:
        spec = one(manifests, "Deployment", f"{cluster.name}-{pool.name}")["spec"]
        assert ("replicas" in spec) == (pool.scaling == "Managed")


@given(cluster=clusters())
@quick
def test_the_same_cluster_gives_the_same_manifests(cluster: GoodSpeedCluster) -> None:
    assert desired(cluster) == desired(parse_cluster(cluster.plain()))


def test_a_change_of_settings_rolls_the_pods_it_concerns_and_no_others() -> None:
    before, after = quickstart(), quickstart(scheduler={"utility": {"alpha": 2}})
    verifier = f"quickstart-verifier-{revision_of(before.spec.target)}"
    assert pod_of(before, verifier) != pod_of(after, verifier)
    assert pod_of(before, "quickstart-lookup") == pod_of(after, "quickstart-lookup")


def test_a_move_to_another_cell_rolls_the_pool() -> None:
    cluster = quickstart(verifier={"replicas": 2})
    moved = Assignments(pools={"lookup": (0,)})
    still = Assignments(pools={"lookup": (1,)})
    name = "quickstart-lookup"
    assert pod_of(cluster, name, moved) != pod_of(cluster, name, still)
    assert pod_of(cluster, "quickstart-one-layer", moved) == pod_of(cluster, "quickstart-one-layer", still)


def test_a_cell_that_is_gone_is_not_attached_to() -> None:
    cluster = quickstart(verifier={"replicas": 1})
    assert desired(cluster, Assignments(pools={"lookup": (4,)})) == desired(cluster)


def test_managed_replicas_stay_within_the_pools_bounds() -> None:
    pool = {"name": "p", "model": "ngram://", "replicas": 2, "minReplicas": 1, "maxReplicas": 3}
    cluster = quickstart(drafters=[pool])
    for decided, expected in ((None, 2), (0, 1), (3, 3), (9, 3)):
        replicas = {} if decided is None else {"p": decided}
        spec = one(desired(cluster, Assignments(replicas=replicas)), "Deployment", "quickstart-p")["spec"]
        assert spec["replicas"] == expected


def test_while_the_target_changes_old_cells_and_their_drafters_stay_as_they_were() -> None:
    old = quickstart()
    new = quickstart(target={"model": "hf://org/new"}, verifier={"replicas": 1, "drainSeconds": 99})
    name = f"quickstart-verifier-{revision_of(old.spec.target)}"
    standing = one(desired(old), "StatefulSet", name)
    kept = cells_from(standing["metadata"]["annotations"]["goodspeed.io/serves"], 1)
    halfway = Assignments(cells=(kept, current_cells(new.spec)), attached=kept.revision)
    manifests = desired(new, halfway)
    assert one(manifests, "StatefulSet", name) == standing
    assert one(manifests, "StatefulSet", f"quickstart-verifier-{revision_of(new.spec.target)}")
    assert pod_of(new, "quickstart-lookup", halfway) == pod_of(old, "quickstart-lookup")
    data = one(desired(new), "ConfigMap", "quickstart-lookup")["data"]
    assert data["GOODSPEED_TARGET"] == "hf://org/new"


@pytest.mark.parametrize("annotation", ["", "{}", "[]", "3", '{"target": {}, "verifier": {}}'])
def test_an_annotation_that_is_not_ours_is_refused(annotation: str) -> None:
    with pytest.raises(ValueError, match=r"goodspeed\.io/serves"):
        cells_from(annotation, 1)


def test_a_pod_template_override_adds_and_replaces_by_name_and_cannot_steal_the_selector() -> None:
    override = {
        "metadata": {"labels": {"goodspeed.io/pool": "stolen", "team": "x"}},
        "spec": {
            "securityContext": {"runAsUser": 1000},
            "containers": [{"name": "drafter", "livenessProbe": None, "env": [{"name": "A", "value": "1"}]}],
        },
    }
    cluster = quickstart(drafters=[{"name": "p", "model": "ngram://", "podTemplate": override}])
    template = pod_of(cluster, "quickstart-p")
    assert template["metadata"]["labels"]["goodspeed.io/pool"] == "p"
    assert template["metadata"]["labels"]["team"] == "x"
    assert template["spec"]["securityContext"]["runAsUser"] == 1000
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    (container,) = template["spec"]["containers"]
    assert "livenessProbe" not in container
    assert [variable["name"] for variable in container["env"]][-1] == "A"
    assert container["command"] == ["goodspeed-drafter"]


def test_a_gpu_pod_insists_on_its_gpu_and_others_see_none() -> None:
    cluster = quickstart(verifier={"resources": {"limits": {"nvidia.com/gpu": 1}}})
    manifests = desired(cluster)
    name = f"quickstart-verifier-{revision_of(cluster.spec.target)}"
    assert one(manifests, "ConfigMap", name)["data"]["GOODSPEED_DEVICE"] == "cuda"
    verifier = pod_of(cluster, name)["spec"]["containers"][0]
    drafter = pod_of(cluster, "quickstart-lookup")["spec"]["containers"][0]
    assert verifier["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert "NVIDIA_VISIBLE_DEVICES" not in {variable["name"] for variable in verifier["env"]}
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in drafter["env"]


def test_only_the_named_may_come_in() -> None:
    manifests = desired(quickstart())
    verifier = one(manifests, "NetworkPolicy", "quickstart-verifier")["spec"]
    grpc, http = verifier["ingress"]
    assert grpc["ports"] == [{"port": "grpc", "protocol": "TCP"}]
    assert [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in grpc["from"]] == [
        "drafter"
    ]
    assert all("namespaceSelector" in peer for peer in http["from"])


def test_the_token_of_the_hub_comes_from_its_secret_alone() -> None:
    text = yaml.safe_dump_all(desired(quickstart(huggingFace={"tokenSecret": {"name": "hf", "key": "k"}})))
    assert "secretKeyRef" in text
    assert "kind: Secret" not in text


def test_a_pod_monitor_is_made_only_where_the_api_is() -> None:
    cluster = quickstart()
    kinds = {each["kind"] for each in desired(cluster)}
    assert "PodMonitor" not in kinds
    assert one(desired(cluster, pod_monitors=True), "PodMonitor", "quickstart")
    off = quickstart(monitoring={"podMonitor": False})
    assert "PodMonitor" not in {each["kind"] for each in desired(off, pod_monitors=True)}


def test_models_on_volumes_are_mounted_where_the_runtime_looks() -> None:
    cluster = quickstart(
        target={"model": "pvc://weights/big"}, drafters=[{"name": "p", "model": "pvc://weights/small"}]
    )
    spec = pod_of(cluster, "quickstart-p")["spec"]
    mounts = {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    assert "/var/run/goodspeed/pvc/weights" in mounts
    assert len([volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]) == 1


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_the_examples_become_valid_manifests(path: Path, version: str) -> None:
    for each in desired(load_cluster(path.read_text())):
        kubernetes_validate.validate(each, version, strict=True)
