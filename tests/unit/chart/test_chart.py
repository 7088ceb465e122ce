"""The chart renders valid manifests, refuses bad values, and grants no right that is not used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from goodspeed_operator.cluster.kinds import CHILDREN, CLUSTER, POD
from goodspeed_operator.resources.policies import OPERATOR_PEER

CHART = Path(__file__).parents[3] / "charts/goodspeed"
Render = Callable[..., list[dict[str, Any]]]

EVERYTHING_ON = {
    "metrics": {
        "serviceMonitor": {"enabled": True},
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    },
    "imagePullSecrets": [{"name": "registry"}],
    "runtime": {"image": "example.org/runtime:1"},
    "priorityClassName": "system-cluster-critical",
}
VERSIONS = ["1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]
# The oldest and the newest at once; those between come with the slow tests.
EACH_VERSION = [
    pytest.param(version, marks=[] if version in (VERSIONS[0], VERSIONS[-1]) else pytest.mark.slow)
    for version in VERSIONS
]


def of_kind(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


@pytest.mark.parametrize("version", EACH_VERSION)
@pytest.mark.parametrize("values", [{}, EVERYTHING_ON, {"operator": {"watchNamespaces": ["a", "b"]}}])
def test_every_manifest_is_valid_for_every_supported_kubernetes(
    render: Render, version: str, values: dict[str, Any]
) -> None:
    for manifest in render(**values):
        foreign = "monitoring.coreos.com" in manifest["apiVersion"]
        if foreign or manifest["kind"] == "CustomResourceDefinition":
            continue
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("values", [{}, {"nameOverride": "other"}, {"fullnameOverride": "other"}])
def test_the_clusters_network_policies_let_the_operator_in_whatever_its_name(
    render: Render, values: dict[str, Any]
) -> None:
    (deployment,) = of_kind(render(**values), "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert OPERATOR_PEER["podSelector"]["matchLabels"].items() <= labels.items()


def test_lint_finds_nothing(chart_folder: Path) -> None:
    findings = helm_python.lint(str(chart_folder))
    assert not findings["errors"]
    assert {message["error"] for message in findings["messages"]} <= {"icon is recommended"}


def test_the_toggles_add_their_objects_and_nothing_is_on_by_default(render: Render) -> None:
    kinds = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
    assert not kinds & {manifest["kind"] for manifest in render()}
    assert kinds <= {manifest["kind"] for manifest in render(**EVERYTHING_ON)}
    dashboards = {path.name for path in (CHART / "files/dashboards").glob("*.json")}
    shown = [name for each in of_kind(render(**EVERYTHING_ON), "ConfigMap") for name in each["data"]]
    assert sorted(shown) == sorted(f"goodspeed-{name}" for name in dashboards)
    assert dashboards
    (rule,) = of_kind(render(**EVERYTHING_ON), "PrometheusRule")
    assert rule["spec"]["groups"]


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 3},
        {"replicaCount": 0},
        {"operator": {"logFormat": "xml"}},
        {"operator": {"watchNamespaces": ["Not A Name"]}},
        {"metrics": {"port": 80}},
        {"image": {"pullPolicy": "Sometimes"}},
    ],
)
def test_a_bad_value_is_refused(render: Render, values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        render(**values)


def test_the_schema_knows_every_value(chart_folder: Path) -> None:
    schema = json.loads((chart_folder / "values.schema.json").read_text())

    def check(node: dict[str, Any], values: dict[str, Any], path: str) -> None:
        if "properties" not in node:
            return
        for name, value in values.items():
            assert name in node["properties"], f"{path}.{name}"
            if isinstance(value, dict):
                check(node["properties"][name], value, f"{path}.{name}")

    check(schema, yaml.safe_load((chart_folder / "values.yaml").read_text()), "")


def granted(rules: list[dict[str, Any]]) -> dict[tuple[str, str], set[str]]:
    rights: dict[tuple[str, str], set[str]] = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                rights.setdefault((group, resource), set()).update(rule["verbs"])
    return rights


def used() -> dict[tuple[str, str], set[str]]:
    """What cluster/ and handlers/ do; a test against a real API server holds this to the audit log."""
    watch = {"list", "watch"}
    rights = {(kind.group, kind.plural): watch | {"get", "create", "patch", "delete"} for kind in CHILDREN}
    rights[CLUSTER.group, CLUSTER.plural] = watch
    rights[CLUSTER.group, f"{CLUSTER.plural}/status"] = {"patch"}
    rights[POD.group, POD.plural] = watch
    rights["", "events"] = {"create", "list"}
    return rights


def test_the_operator_is_granted_exactly_what_it_uses(render: Render) -> None:
    roles = {role["metadata"]["name"]: role for role in of_kind(render(), "ClusterRole")}
    assert granted(roles["goodspeed"]["rules"]) == used()


def test_with_named_namespaces_there_are_no_rights_outside_them(render: Render) -> None:
    manifests = render(operator={"watchNamespaces": ["a", "b"]})
    assert not of_kind(manifests, "ClusterRoleBinding")
    roles = {
        role["metadata"]["namespace"]: granted(role["rules"])
        for role in of_kind(manifests, "Role")
        if role["metadata"]["name"] == "goodspeed"
    }
    assert roles == {"a": used(), "b": used()}


def test_no_right_is_a_wildcard(render: Render) -> None:
    for kind in ("Role", "ClusterRole"):
        for role in of_kind(render(), kind):
            assert "*" not in str(role["rules"])


def test_the_definition_survives_an_uninstall_unless_told_otherwise(render: Render) -> None:
    (crd,) = of_kind(render(), "CustomResourceDefinition")
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    (crd,) = of_kind(render(crds={"keep": False}), "CustomResourceDefinition")
    assert "helm.sh/resource-policy" not in crd["metadata"].get("annotations", {})
    assert not of_kind(render(crds={"install": False}), "CustomResourceDefinition")
