"""Bad clusters are refused, every bad field is named, and the message says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bad_specs import TABLE, broken
from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.crd import definition
from goodspeed_operator.api.loading import ClusterError, load_cluster, load_with_secrets, parse_cluster

ROOT = Path(__file__).parents[3]
QUICKSTART = (ROOT / "examples/quickstart.yaml").read_text()


def messages(schema: Any) -> set[str]:
    found = set()
    if isinstance(schema, dict):
        found |= {
            rule["message"] for rule in schema.get("x-kubernetes-validations", []) if isinstance(rule, dict)
        }
        for part in schema.values():
            found |= messages(part)
    elif isinstance(schema, list):
        for part in schema:
            found |= messages(part)
    return found


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: str(case["set"])[:70])
def test_a_bad_spec_is_refused_at_the_field_and_in_the_words_of_the_rule(case: dict[str, Any]) -> None:
    with pytest.raises(ClusterError) as refusal:
        parse_cluster(broken(case))
    expected = case.get("python") or case["says"]
    paths = [path.replace(".0", "[0]") for path in case["set"]]
    hits = [problem for problem in refusal.value.problems if expected in problem.message]
    assert hits, refusal.value
    assert any(hit.path.startswith(path) or path.startswith(hit.path) for hit in hits for path in paths), hits


def test_the_base_of_the_table_is_good() -> None:
    assert parse_cluster(TABLE["base"]).name == "bad"


def test_the_table_and_the_rules_of_the_definition_are_the_same() -> None:
    said = {case["says"] for case in TABLE["cases"] if "says" in case}
    known = messages(definition())
    assert [message for message in known if not any(part in message for part in said)] == []
    assert [part for part in said if not any(part in message for message in known)] == []


def test_all_bad_fields_come_in_one_message() -> None:
    text = QUICKSTART.replace("  target:\n    model:", "  target:\n    modle:").replace("rejection", "guess")
    text = text.replace("replicas: 1, weight: 1", "replicas: -1, weight: 1")
    with pytest.raises(ClusterError) as refusal:
        load_cluster(text)
    assert {problem.path for problem in refusal.value.problems} == {
        "spec.target.model",
        "spec.target.modle",
        "spec.verifier.verification",
        "spec.drafters[0].replicas",
    }
    assert 'did you mean "model"?' in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds 0 objects"),
        (QUICKSTART + "\n---\n" + QUICKSTART, "holds 2 objects"),
        ("a: [", "not YAML"),
        ("- a", "is no object"),
        (QUICKSTART.replace("kind: GoodSpeedCluster", "kind: Pod"), "kind: 'Pod' is none of the choices"),
        (QUICKSTART.replace("v1alpha1", "v2"), "apiVersion: 'goodspeed.io/v2' is none of the choices"),
        (QUICKSTART.replace("dtype: auto", "dtype: auto\n    dtype: float32"), "'dtype' stands here twice"),
        (QUICKSTART.replace("metadata:\n  name: quickstart\n", ""), "metadata: is missing"),
    ],
)
def test_a_text_that_is_not_one_cluster_is_refused(text: str, says: str) -> None:
    with pytest.raises(ClusterError, match=re.escape(says)):
        load_cluster(text)


SECRET = """
---
apiVersion: v1
kind: Secret
metadata: {name: gold}
stringData: {token: plain}
data: {token: b3RoZXI=, more: bW9yZQ==}
---
"""


def test_secrets_may_stand_beside_the_cluster() -> None:
    cluster, secrets = load_with_secrets(QUICKSTART + SECRET)
    assert cluster == load_cluster(QUICKSTART) == load_cluster(SECRET + QUICKSTART)
    assert secrets == {("default", "gold"): {"token": "plain", "more": "more"}}


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        (SECRET.replace("{name: gold}", "{}"), "a Secret without metadata.name"),
        (SECRET + SECRET, "Secret gold stands there twice"),
        (SECRET.replace("bW9yZQ==", "more!"), "Secret gold: data is not text in base64"),
        (SECRET.replace("plain", "17"), "Secret gold: stringData must be a section of texts"),
        (SECRET.replace("kind: Secret", "kind: ConfigMap"), "holds 2 objects"),
    ],
)
def test_a_secret_that_is_none_is_refused_and_its_value_not_shown(secret: str, says: str) -> None:
    with pytest.raises(ClusterError, match=re.escape(says)) as refusal:
        load_cluster(QUICKSTART + secret)
    assert "b3RoZXI=" not in str(refusal.value)


def test_what_is_loaded_survives_a_round_trip() -> None:
    cluster = load_cluster(QUICKSTART)
    assert GoodSpeedCluster.model_validate(cluster.plain()) == cluster


def test_status_of_a_newer_operator_does_not_stop_an_older_one() -> None:
    cluster = yaml.safe_load(QUICKSTART) | {"status": {"observedGeneration": 3, "fromTheFuture": {"a": 1}}}
    assert parse_cluster(cluster).status.observed_generation == 3


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_good(path: Path) -> None:
    assert load_cluster(path.read_text()).spec.drafters
