"""Renders the chart with Helm's own engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

CHART = Path(__file__).parents[3] / "charts" / "goodspeed"

Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def chart_folder() -> Path:
    return CHART


@pytest.fixture(scope="session")
def render() -> Render:
    def rendered(**values: Any) -> list[dict[str, Any]]:
        with helm_python.Chart.load(str(CHART)) as chart:
            chart.validate_schema(values)
            texts = chart.render(values, name="goodspeed", namespace="goodspeed-system")
        return [
            manifest
            for path, text in sorted(texts.items())
            if path.endswith(".yaml")
            for manifest in yaml.safe_load_all(text)
            if manifest
        ]

    return rendered
