"""A hundred cells, ten thousand drafters, load that drifts, prices that tremble."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks/rebalancing.py"


@pytest.mark.slow
def test_a_large_fleet_stays_near_the_central_optimum_with_few_moves_and_quick_decisions(record_property):
    spec = importlib.util.spec_from_file_location("rebalancing_benchmark", BENCHMARK)
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # dataclasses look their module up
    spec.loader.exec_module(benchmark)
    figures = benchmark.run(benchmark.parser().parse_args(["--hours=1.5"]))
    for name, value in figures.items():
        record_property(name, value)
    assert figures["utility_of_optimum"] > 0.95
    assert figures["utility_of_optimum"] > figures["utility_without_rebalancing"] + 0.01
    assert figures["moves_per_drafter_and_hour"] < 1
    assert figures["longest_decision_seconds"] < 1
