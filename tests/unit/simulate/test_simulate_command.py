"""`goodspeed simulate` prints a table, writes JSON under stable keys and draws; what it cannot do it says."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from goodspeed_runtime.simulate.command import app
from goodspeed_runtime.simulate.loading import preset_text

KEYS = {
    "scenario",
    "allocator",
    "utility",
    "jain_index",
    "min_goodput",
    "p95_round_seconds",
    "goodput_per_round",
    "goodput_per_second",
    "optimum_gap",
}


def simulate(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_json_has_the_agreed_keys_for_every_allocator_of_every_case(tmp_path):
    file = tmp_path / "figures" / "paper.json"
    result = simulate("--json", file, "--rounds", 20)
    assert result.exit_code == 0, result.output
    rows = json.loads(file.read_text())
    assert len(rows) == 6 * 5
    assert all(set(row) >= KEYS for row in rows)
    assert {row["scenario"] for row in rows} >= {"paper/qwen-4-c24", "paper/llama-8-c20"}
    assert all(row["goodput_per_round"] > 0 for row in rows)


def test_the_table_says_what_the_json_says(tmp_path):
    file = tmp_path / "drift.json"
    result = simulate("-s", "drift", "--json", file, "--rounds", 300)
    row = json.loads(file.read_text())[0]
    line = next(line for line in result.output.splitlines() if f"│ {row['allocator']} " in line)
    assert f"{row['utility']:.3f}" in line
    assert f"{row['jain_index']:.3f}" in line
    assert f"{row['goodput_per_second']:.1f}" in line


def test_the_same_seed_gives_the_same_figures_and_another_seed_others(tmp_path):
    found = []
    for seed in (3, 3, 4):
        simulate("-s", "churn", "--rounds", 200, "--seed", seed, "--json", tmp_path / "it.json")
        found.append([row["utility"] for row in json.loads((tmp_path / "it.json").read_text())])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("scenario", "pictures"),
    [
        ("drift", {"utility", "estimates", "time", "fairness", "tracking"}),
        ("spread", {"utility", "estimates", "time", "fairness", "gain"}),
    ],
)
def test_it_draws_the_papers_pictures_as_png_and_svg(tmp_path, scenario, pictures):
    result = simulate("-s", scenario, "--rounds", 40, "--plots", tmp_path)
    assert result.exit_code == 0, result.output
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {f"{scenario}-{name}.{kind}" for name in pictures for kind in ("png", "svg")}
    assert (tmp_path / f"{scenario}-utility.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / f"{scenario}-utility.svg").read_text()


def test_the_same_run_draws_the_same_picture(tmp_path):
    for folder in ("first", "second"):
        simulate("-s", "drift", "--rounds", 40, "--plots", tmp_path / folder)
    first, second = (
        (tmp_path / folder / "drift-tracking.svg").read_bytes() for folder in ("first", "second")
    )
    assert first == second


def test_a_scenario_shown_kept_and_changed_is_played_as_changed(tmp_path):
    shown = simulate("-s", "drift", "--show")
    assert shown.stdout == preset_text("drift")
    mine = yaml.safe_load(shown.stdout)
    mine["name"] = "mine"
    mine["allocators"] = mine["allocators"][2:4]
    mine["allocators"][1]["acceptance"] = {"step": 0.05, "decay": 0.9, "idleStep": 0.02, "prior": 0.5}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(mine))
    result = simulate("-f", file, "--rounds", 50, "--json", tmp_path / "mine.json")
    assert result.exit_code == 0, result.output
    assert [row["scenario"] for row in json.loads((tmp_path / "mine.json").read_text())] == ["mine", "mine"]


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        ({"acceptance": {"step": 0.5}}, "tracking_error"),
        ({"acceptance": {"step": 0.01, "decay": 0.6}}, "tracking_error"),
        ({"acceptance": {"prior": 0.1}}, "tracking_error"),
        ({"acceptance": {"idleStep": 0.0}}, "tracking_error"),
        ({"acceptance": {"estimator": "adaptive"}}, "tracking_error"),
        ({"acceptance": {"estimator": "adaptive", "hazard": 0.2}}, "tracking_error"),
        ({"acceptance": {"byPosition": True}}, "utility"),
        ({"goodputStep": 0.5}, "utility"),
        ({"goodputStep": 0.01, "goodputDecay": 0.6}, "utility"),
        ({"fairness": 4}, "utility"),
        ({"barrier": False}, "p95_round_seconds"),
        ({"allocator": "per-second", "barrier": False}, "utility"),
        ({"allocator": "per-second", "barrier": False, "rescan": 2}, "utility"),
        ({"barrier": False, "triesPlain": True}, "utility"),
        ({"allocator": "sum-throughput"}, "jain_index"),
        ({"allocator": "static-oracle"}, "regret"),
        ({"allocator": "best-fixed"}, "utility"),
    ],
)
def test_every_option_of_an_allocator_changes_what_it_does(tmp_path, change, figure):
    def figures(player):
        mine = yaml.safe_load(preset_text("drift"))
        # A deadline matters where a draft may be worth a wait.
        longest = 0.012 if "rescan" in change else 0.4
        mine["cases"][0]["clients"][0]["delaySeconds"] = {"from": 0.001, "to": longest}
        mine["cases"][0]["budgetTokens"] = 14
        mine["allocators"], mine["baseline"] = [{"name": "it"} | player], "it"
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
        result = simulate("-f", tmp_path / "mine.yaml", "--rounds", 400, "--json", tmp_path / "it.json")
        assert result.exit_code == 0, result.output
        return json.loads((tmp_path / "it.json").read_text())[0][figure]

    plain = {"allocator": "gradient"}
    match change:
        case {"triesPlain": _}:
            plain = {"allocator": "gradient", "barrier": False}
        case {"rescan": _}:
            plain = {"allocator": "per-second", "barrier": False}
        case {"acceptance": {"hazard": _}}:
            plain = {"allocator": "gradient", "acceptance": {"estimator": "adaptive"}}
    assert figures(plain | change) != figures(plain)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-s", "drift", "-f", "x.yaml"], "give one of them"),
        (["-s", "drifts"], "did you mean 'drift'"),
        (["-f", "/nowhere/x.yaml"], "no such file"),
        (["-s", "drift", "--json", "/proc/none/it.json"], "--json: /proc/none"),
        (["-s", "drift", "--rounds", 3], "rounds"),
    ],
)
def test_what_it_cannot_do_it_says(arguments, words):
    result = simulate(*arguments)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize(
    ("scenario", "change"),
    [
        ("stragglers", {"seconds": 0.5}),
        ("scale", {"seconds": 0.5}),
        ("churn", {"churn": {"meanStaySeconds": 0.1, "meanAwaySeconds": 3000}}),
    ],
)
def test_a_run_that_ends_before_its_warm_up_says_what_to_change(tmp_path, scenario, change):
    file = tmp_path / "short.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(preset_text(scenario)) | change))
    result = simulate("-f", file, "--rounds", 50)
    assert result.exit_code == 2, result.output
    assert "played no round after warm-up" in result.output
    assert "raise seconds" in result.output


def test_the_published_gains_stand_beside_ours(tmp_path):
    result = simulate("--rounds", 20, "--json", tmp_path / "it.json")
    rows = {(r["scenario"], r["allocator"]): r for r in json.loads((tmp_path / "it.json").read_text())}
    assert "paper's" in result.output
    assert rows["paper/qwen-4-c28", "gradient, published"]["published_gain"] == pytest.approx(0.067, abs=5e-4)
    assert rows["paper/qwen-4-c28", "gradient, oracle"]["published_gain"] is None
    assert rows["paper/qwen-8-c20", "random"]["published_gain"] == pytest.approx(0.054, abs=5e-4)
