"""The chart's rules and dashboards are the tested files, whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Render = Callable[..., list[dict[str, Any]]]


def test_the_prometheus_rule_is_the_file_that_promtool_tests(render: Render, chart_folder: Path) -> None:
    manifests = render(metrics={"prometheusRule": {"enabled": True}})
    (rule,) = (found for found in manifests if found["kind"] == "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((chart_folder / "files/rules.yaml").read_text())
    assert len(rule["spec"]["groups"]) == 2


def test_every_dashboard_comes_as_grafana_reads_it(render: Render, chart_folder: Path) -> None:
    files = sorted((chart_folder / "files/dashboards").glob("*.json"))
    assert [file.stem for file in files] == ["cell", "drafter", "fleet", "operator"]
    maps = [
        found
        for found in render(metrics={"dashboards": {"enabled": True}})
        if found["kind"] == "ConfigMap" and "grafana_dashboard" in found["metadata"]["labels"]
    ]
    shown = {name: json.loads(text) for each in maps for name, text in each["data"].items()}
    assert shown == {f"goodspeed-{file.name}": json.loads(file.read_text()) for file in files}
    assert len({each["uid"] for each in shown.values()}) == len(files)
