"""docs/metrics.md lists every metric as the registries have it, and OpenMetrics' own parser agrees."""

import re
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from goodspeed_operator.handlers.metrics import OperatorMetrics
from goodspeed_runtime.metrics import DrafterMetrics, VerifierMetrics, expose, pass_size

REFERENCE = Path(__file__).parents[3] / "docs/metrics.md"
BOUNDED = {
    "namespace", "cluster", "cell", "pool", "drafter", "phase", "size", "position", "code", "result",
    "tenant", "reason", "action", "source",
}  # fmt: skip
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def registry(part):
    match part:
        case "Verifier":
            return VerifierMetrics().registry
        case "Drafter":
            return DrafterMetrics("c", "p", "d").registry
        case "Operator":
            return OperatorMetrics().registry


PARTS = ("Verifier", "Drafter", "Operator")


def described(part):
    """Name as in queries, type, labels and meaning of every metric of a registry."""
    for collector in sorted(set(registry(part)._collector_to_names), key=lambda each: each._name):
        name = f"{collector._name}_total" if collector._type == "counter" else collector._name
        labels = collector._labelnames or getattr(collector, "_labelnames", ())
        yield name, collector._type, tuple(labels), collector._documentation


def documented(part):
    """The same as docs/metrics.md has it."""
    section = re.search(
        rf"^## {part}$(.*?)(?=^## |\Z)", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert section, f"docs/metrics.md has no section {part}"
    for line in section[1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `goodspeed_"):
            name, kind, labels, text = cells
            yield name.strip("`"), kind, tuple(re.findall(r"`(\w+)`", labels)), text


@pytest.mark.parametrize("part", PARTS)
def test_the_reference_is_what_the_registries_say(part):
    assert sorted(documented(part)) == sorted(described(part))


@pytest.mark.parametrize("part", PARTS)
def test_no_metric_has_a_label_without_bound(part):
    for name, _, labels, _ in described(part):
        assert set(labels) <= BOUNDED, name


@pytest.mark.parametrize("part", PARTS)
def test_open_metrics_parses_and_ends(part):
    found = registry(part)
    for metric in list(found._collector_to_names):
        if metric._labelnames and not metric._metrics:
            metric.labels(*("x" for _ in metric._labelnames))
    text, content_type = expose(found, OPEN_METRICS)
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    assert {family.removesuffix("_total") for family in families} == {
        name.removesuffix("_total") for name, *_ in described(part)
    }


def test_a_histogram_keeps_an_exemplar_for_whoever_reads_open_metrics():
    metrics = DrafterMetrics("c", "p", "d")
    metrics.first_token_seconds.observe(0.3, {"trace_id": "abc"})
    assert b'trace_id="abc"' in expose(metrics.registry, OPEN_METRICS)[0]
    assert b"trace_id" not in expose(metrics.registry, "text/plain")[0]


def test_a_drafter_that_leaves_takes_all_its_series_with_it():
    metrics = VerifierMetrics()
    labels = ("c", "v", "p", "d")
    before = expose(metrics.registry, "")[0]
    metrics.add_client(labels)
    metrics.accepted_per_position.labels(*labels, "3").inc()
    assert b'drafter="d"' in expose(metrics.registry, "")[0]
    metrics.remove_client(labels, [3])
    assert expose(metrics.registry, "")[0] == before


@pytest.mark.parametrize(("tokens", "size"), [(1, "1"), (2, "2"), (3, "4"), (64, "64"), (65, "128")])
def test_a_pass_is_labelled_by_the_power_of_two_that_it_fits(tokens, size):
    assert pass_size(tokens) == size
