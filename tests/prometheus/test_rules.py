"""Rules, metrics and dashboards, as promtool and the chart have them."""

import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client import generate_latest
from server import ROOT, RULES

from goodspeed_operator.handlers.metrics import OperatorMetrics
from goodspeed_runtime.metrics import DrafterMetrics, VerifierMetrics


def promtool(*arguments, **options):
    return subprocess.run(["promtool", *arguments], text=True, capture_output=True, timeout=60, **options)


def test_the_rules_are_sound():
    done = promtool("check", "rules", "--lint-fatal", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_compute_and_alert_as_their_tests_say(tmp_path):
    for source in (RULES, ROOT / "tests/prometheus/rules_test.yaml"):
        shutil.copy(source, tmp_path)
    done = promtool("test", "rules", "rules_test.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_a_runbook_section():
    alerts = {
        rule["alert"]: rule
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    tested = (ROOT / "tests/prometheus/rules_test.yaml").read_text()
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)
    for name, rule in alerts.items():
        assert re.search(rf"alertname: {name}\b", tested), name
        assert name in headings
        assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"
    assert set(headings) == set(alerts)


def filled(kind):
    """A registry in which every metric has a series."""
    match kind:
        case "operator":
            metrics = OperatorMetrics()
        case "drafter":
            metrics = DrafterMetrics("c", "p", "d")
        case "verifier":
            metrics = VerifierMetrics()
            metrics.add_client(("c", "v", "p", "d"))
    for metric in list(metrics.registry._names_to_collectors.values()):
        if getattr(metric, "_labelnames", ()) and not metric._metrics:
            metric.labels(*("x" for _ in metric._labelnames))
    return metrics.registry


@pytest.mark.parametrize("kind", ["verifier", "drafter", "operator"])
def test_promtool_finds_nothing_to_say_about_names(kind):
    done = promtool("check", "metrics", input=generate_latest(filled(kind)).decode())
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
