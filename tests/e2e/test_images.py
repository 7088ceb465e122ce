"""What the Dockerfiles install and run, without an engine: their commands in a bare virtual environment."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clusters import eventually
from image_build import Image, read

from goodspeed_operator.local.network import Block

ROOT = Path(__file__).parents[2]
DOCKERFILES = {name: ROOT / name / "Dockerfile" for name in ("operator", "runtime")}
BUILT = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(900)]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_bases_are_pinned_and_the_last_stage_runs_as_nobody(name: str) -> None:
    arguments, stages = read(DOCKERFILES[name])
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", arguments["PYTHON"])
    builds = "PYTHON_BUILD" if name == "runtime" else "PYTHON"
    assert [stage.base.split()[0] for stage in stages] == [f"python:${{{builds}}}", "python:${PYTHON}"]
    # The same release of the same system, so that what one compiles runs in the other.
    assert arguments[builds].replace("-slim", "") == arguments["PYTHON"].replace("-slim", "")
    last = stages[-1]
    assert last.all("USER") == ["65532:65532"]
    assert not last.all("RUN")
    assert all(copied.startswith("--from=build ") for copied in last.all("COPY"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_nothing_is_installed_that_constraints_do_not_pin(name: str) -> None:
    _, stages = read(DOCKERFILES[name])
    installs = [part for run in stages[0].all("RUN") for part in run.split("&&") if "pip install" in part]
    assert installs
    for install in installs:
        assert "--constraint constraints.txt" in install or re.search(
            r"torch==\d+\.\d+\.\d+$", install.strip()
        )


def test_the_runtimes_torch_is_the_one_that_everything_else_was_tested_with() -> None:
    """Whatever the variant: CUDA's libraries by default, none of them with an index of CPU builds."""
    _, stages = read(DOCKERFILES["runtime"])
    (torch,) = [run for run in stages[0].all("RUN") if "torch==" in run]
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert torch.endswith(f"torch=={pinned[1]}")
    assert '${TORCH_INDEX:+--index-url "$TORCH_INDEX"}' in torch
    assert stages[0].all("ARG") == ['TORCH_INDEX=""']


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Image]:
    """Each image's environment, built when it is first asked for."""
    probe = tmp_path_factory.mktemp("probe")
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", probe, "iniconfig"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        pytest.skip(f"needs a package index: {asked.stderr[-300:]}")
    built: dict[str, Image] = {}

    def one(name: str) -> Image:
        if name not in built:
            image = Image(DOCKERFILES[name], ROOT, tmp_path_factory.mktemp(f"image-{name}"))
            image.build()
            built[name] = image
        return built[name]

    return one


def imports(image: Image, module: str) -> bool:
    return image.run("python", "-c", f"import {module}").returncode == 0


class TestOperator:
    pytestmark = BUILT

    @pytest.fixture
    def image(self, images: Callable[[str], Image]) -> Image:
        return images("operator")

    def test_it_carries_what_the_operator_needs_and_no_torch(
        self, image: Image, record_property: Callable[[str, object], None]
    ) -> None:
        assert imports(image, "kopf")
        assert imports(image, "goodspeed_operator.main")
        for foreign in ("torch", "transformers", "grpc", "fastapi", "pip"):
            assert not imports(image, foreign), foreign
        record_property("mebibytes", image.mebibytes)
        assert image.mebibytes < 300

    def test_its_entry_point_starts_and_says_what_it_lacks(self, image: Image) -> None:
        assert image.entrypoint == ["goodspeed-operator"]
        assert "Reconcile GoodSpeedClusters" in image.run(*image.entrypoint, "--help").stdout
        alone = image.run(*image.entrypoint, "--address=127.0.0.1", "--http-port=0")
        assert alone.returncode == 1
        assert "cannot start: Invalid kube-config" in alone.stderr + alone.stdout
        assert "Traceback" not in alone.stderr + alone.stdout


class TestRuntime:
    pytestmark = BUILT

    @pytest.fixture
    def image(self, images: Callable[[str], Image]) -> Image:
        return images("runtime")

    def test_it_carries_what_the_servers_need_and_no_kopf(
        self, image: Image, record_property: Callable[[str, object], None]
    ) -> None:
        for needed in ("torch", "transformers", "grpc", "fastapi", "pip"):
            assert imports(image, needed), needed
        for foreign in ("kopf", "kubernetes", "pytest"):
            assert not imports(image, foreign), foreign
        record_property("mebibytes", image.mebibytes)
        version = image.run("python", "-c", "import torch; print(torch.__version__, torch.version.cuda)")
        record_property("torch", version.stdout.strip())

    def test_every_command_that_pods_run_is_there(self, image: Image) -> None:
        for command in ("goodspeed-verifier", "goodspeed-drafter", "goodspeed"):
            assert "Usage" in image.run(command, "--help").stdout
        assert image.run("goodspeed", "models", "list").returncode == 0

    def test_its_verifier_and_drafter_start_and_answer(self, image: Image, tmp_path: Path) -> None:
        from tiny_model import make

        model = f"file://{make(tmp_path / 'model')}"
        block = Block()
        try:
            verifier, drafter = block.address(0), block.address(1)
            common = ["--cluster=image", f"--cache={tmp_path / 'cache'}", "--threads=1", "--dtype=float32"]
            ports = {verifier: 8081, drafter: 8000}
            with (
                running(
                    image,
                    "goodspeed-verifier",
                    f"--model={model}",
                    f"--address={verifier}",
                    *common,
                    "--max-context-tokens=512",
                ),
                running(
                    image,
                    "goodspeed-drafter",
                    "--model=ngram://",
                    f"--target={model}",
                    f"--verifier={verifier}:50051",
                    "--pool=lookup",
                    f"--address={drafter}",
                    *common,
                ),
            ):
                for address, port in ports.items():
                    eventually(lambda url=f"http://{address}:{port}/readyz": answers(url), 90)
                body = b'{"model": "model", "prompt": "hello", "max_tokens": 4}'
                request = urllib.request.Request(
                    f"http://{drafter}:8000/v1/completions",
                    body,
                    headers={"Content-Type": "application/json"},
                )
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert b'"completion_tokens"' in answer.read()
        finally:
            block.release()


@contextmanager
def running(image: Image, *arguments: str) -> Iterator[None]:
    process = subprocess.Popen(image.command(*arguments), env=image.environment(OMP_NUM_THREADS="1"))
    try:
        yield
    finally:
        process.terminate()
        began = time.monotonic()
        assert process.wait(60) == 0
        assert time.monotonic() - began < 50


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
