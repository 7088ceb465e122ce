"""The generated stubs are those of the .proto beside them, and run on every version that we allow."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grpc_tools
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from goodspeed_runtime.protocol import generated

ROOT = Path(__file__).parents[3]
STUBS = Path(generated.__file__).parent
PROTO = STUBS.parent / "speculation.proto"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stubs as the Makefile's `stubs` writes them, somewhere else."""
    out = tmp_path_factory.mktemp("stubs")
    package = "goodspeed_runtime/protocol/generated"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{package}={PROTO.parent}"]
    command += [f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    command += [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([*command, f"{package}/{PROTO.name}"], check=True)
    return out / package


@pytest.mark.parametrize("name", ["speculation_pb2.py", "speculation_pb2.pyi", "speculation_pb2_grpc.py"])
def test_the_stubs_are_in_step_with_the_proto(fresh: Path, name: str) -> None:
    assert (STUBS / name).read_text() == (fresh / name).read_text(), "run `make stubs`"


@pytest.mark.parametrize(
    ("package", "file", "pattern"),
    [
        ("grpcio", "speculation_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '([\d.]+)'"),
        ("protobuf", "speculation_pb2.py", r"# Protobuf Python Version: ([\d.]+)"),
    ],
)
def test_the_lower_bound_is_what_the_stubs_demand(package: str, file: str, pattern: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (allowed,) = [need for text in extras["runtime"] if (need := Requirement(text)).name == package]
    (demanded,) = re.findall(pattern, (STUBS / file).read_text())
    (bound,) = allowed.specifier
    assert bound.operator == ">="
    assert Version(bound.version) >= Version(demanded)
