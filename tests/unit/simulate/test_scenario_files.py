"""A scenario file is checked as a whole: what could not be played is named, with the fix."""

import numpy as np
import pytest
import yaml

from goodspeed_runtime.simulate.cast import cast
from goodspeed_runtime.simulate.loading import ScenarioError, load, parse, preset, preset_names, preset_text

SMALL = """
name: small
rounds: 100
baseline: fixed
verification: {tokens: [0, 64], seconds: [0.05, 0.06]}
cases:
- name: two
  budgetTokens: 8
  clients: [{count: 2, acceptance: [0.4, 0.8]}]
allocators:
- {name: fixed, allocator: fixed}
- {name: gradient, allocator: gradient}
"""


def changed(path, value):
    content = yaml.safe_load(SMALL)
    *way, last = path
    part = content
    for step in way:
        part = part[step]
    part[last] = value
    return yaml.safe_dump(content)


@pytest.mark.parametrize("name", preset_names())
def test_every_scenario_that_comes_with_the_package_is_sound_and_named_like_its_file(name):
    assert preset(name).name == name


def test_the_issue_scenarios_are_all_there():
    assert {"paper", "drift", "churn", "stragglers", "scale"} <= set(preset_names())


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["rounds"], 5, "rounds: 5 is too small; the least is 10"),
        (["rounds"], "many", "rounds: 'many' must be a whole number"),
        (["seed"], -1, "seed: -1 is too small"),
        (["baseline"], "best", "baseline 'best' is no allocator here; it must be one of fixed, gradient"),
        (["fairnes"], 1, 'fairnes: unknown field; did you mean "fairness"?'),
        (["verification", "seconds"], [0.05, 0.04], "seconds that do not fall"),
        (["cases", 0, "budgetTokens"], -1, "cases[0].budgetTokens: -1 is too small"),
        (["cases", 0, "clients", 0, "acceptance"], [0.4], "acceptance has 1 values for 2 clients"),
        (["cases", 0, "clients", 0, "acceptance"], 1.0, "cases[0].clients[0].acceptance"),
        (["cases", 0, "clients", 0, "fade"], {"from": 0, "to": 1}, "fade must be above 0"),
        (["cases", 0, "clients", 0, "minDraftTokens"], 5, "minDraftTokens of two come to 10, more than"),
        (["allocators", 1, "name"], "fixed", "allocators has two entries named 'fixed'"),
        (["allocators", 1, "allocator"], "best", "'best' is none of the choices"),
        (["allocators", 1, "allocator"], "per-second", "add barrier: false"),
        (["allocators", 1, "rescan"], 8, "gradient chooses no deadline"),
        (["allocators", 1, "slowLoop"], True, "slowLoop needs cells"),
        (["allocators", 1, "acceptance"], {"decay": 0.4}, "acceptance.decay: 0.4 is too small"),
        (
            ["allocators", 1, "acceptance"],
            {"estimator": "adaptive", "step": 0.2, "idleStep": 0.1},
            "the adaptive estimator has no use for idleStep, step",
        ),
        (
            ["allocators", 1, "acceptance"],
            {"estimator": "oracle", "byPosition": True},
            "no use for byPosition",
        ),
        (["cells"], {"count": 3}, "cells.count is more than there are clients"),
        (["churn"], {"meanStaySeconds": 0, "meanAwaySeconds": 1}, "churn.meanStaySeconds: 0 is too small"),
    ],
)
def test_what_cannot_be_played_is_refused_by_field_and_fix(path, value, words):
    with pytest.raises(ScenarioError) as refusal:
        parse(changed(path, value), source="mine.yaml")
    assert words in str(refusal.value)
    assert str(refusal.value).startswith("mine.yaml: 1 field to fix:")


def test_all_bad_fields_are_named_at_once():
    text = SMALL.replace("rounds: 100", "rounds: 1").replace("budgetTokens: 8", "budgetTokens: x")
    with pytest.raises(ScenarioError, match="2 fields to fix"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "not YAML"), ("- 1", "must be a section"), ("name: a\nname: b", "'name' stands here twice")],
)
def test_what_is_no_section_of_fields_is_refused(text, words):
    with pytest.raises(ScenarioError, match=words):
        parse(text)


def test_a_name_that_is_nearly_right_gets_a_hint_and_a_missing_file_its_reason(tmp_path):
    with pytest.raises(ScenarioError, match="did you mean 'stragglers'"):
        preset("straglers")
    with pytest.raises(ScenarioError, match="no such file"):
        load(tmp_path / "none.yaml")


def test_what_a_scenario_says_of_clients_is_what_plays():
    scenario = parse(
        SMALL.replace(
            "[{count: 2, acceptance: [0.4, 0.8]}]",
            "[{count: 3, acceptance: {from: 0.2, to: 0.8}, fade: 0.9, weight: [1, 2, 3], minDraftTokens: 1,"
            " maxDraftTokens: 4, draftSeconds: {from: 0.01, to: 0.04, spacing: log}},"
            " {acceptance: 0.5, delaySeconds: 0.1}]",
        )
    )
    them = cast(scenario, scenario.cases[0], rounds=100, seed=0).population
    np.testing.assert_allclose(them.acceptance, [0.2, 0.5, 0.8, 0.5])
    np.testing.assert_allclose(them.fade, [0.9, 0.9, 0.9, 1])
    np.testing.assert_allclose(them.draft_seconds, [0.01, 0.02, 0.04, 0])
    assert them.weights.tolist() == [1, 2, 3, 1]
    assert them.floors.tolist() == [1, 1, 1, 0]
    assert them.caps.tolist() == [4, 4, 4, 8]


def test_clients_and_what_happens_to_them_are_the_same_for_the_same_seed_only():
    scenario = preset("churn")
    first, again, other = (cast(scenario, scenario.cases[0], rounds=2000, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.changes.at, again.changes.at)
    assert len(first.changes.at) > 20
    assert first.changes.at.tolist() != other.changes.at.tolist()


def test_clients_of_churn_stay_and_are_away_as_long_as_the_file_says():
    scenario = parse(
        SMALL.replace("count: 2, acceptance: [0.4, 0.8]", "count: 400, acceptance: 0.5")
        + "churn: {meanStaySeconds: 60, meanAwaySeconds: 30}\n"
    )
    drawn = cast(scenario, scenario.cases[0], rounds=40_000, seed=0)
    assert drawn.population.present.mean() == pytest.approx(2 / 3, abs=0.08)
    leaving = int(np.isnan(drawn.changes.acceptance).sum())
    assert leaving == pytest.approx(len(drawn.changes.at) / 2, rel=0.05)


def test_show_gives_the_text_that_parses_to_the_same_scenario():
    assert parse(preset_text("drift")) == preset("drift")
