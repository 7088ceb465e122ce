"""Where models lie on this machine, and how a folder gets there once and whole.

Several processes of one machine ask for the same model at the same moment. One
makes it, under a file lock, in a folder beside its final place that is renamed
when complete; the others wait. A manifest written last holds the sizes and
checksums of all files, so that a damaged folder is noticed and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from goodspeed_runtime.models.uri import ModelNotFoundError

Report = Callable[[str, int, int], None]
"""Told of progress as (what is done, units done, units in all)."""

LOCK_SECONDS = 900.0
_MANIFEST = "goodspeed.json"


def silent(what: str, done: int, total: int) -> None:
    """A `Report` that tells nobody."""


def cache_folder(chosen: Path | None = None) -> Path:
    """The cache: ``chosen``, else ``$GOODSPEED_CACHE``, else ``~/.cache/goodspeed``."""
    if chosen is not None:
        return chosen
    return Path(os.environ.get("GOODSPEED_CACHE") or Path.home() / ".cache" / "goodspeed")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder with config.json, tokenizer files and safetensors.

    Attributes:
        path: of the folder.
        checksum: SHA-256 over the manifest's checksums, empty for folders that are not ours.
    """

    path: Path
    checksum: str = ""


class DamagedModelError(ValueError):
    """A cached folder is not what its manifest says."""


def sha256(path: Path, report: Report = silent) -> str:
    """The hexadecimal SHA-256 of a file."""
    digest, size, done = hashlib.sha256(), path.stat().st_size, 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            done += len(block)
            report(f"checking {path.name}", done, size)
    return digest.hexdigest()


def check(folder: Path, *, contents: bool = False) -> ModelFolder:
    """A cached folder, when it is whole.

    Args:
        folder: to look at.
        contents: hash every file, not only compare sizes.

    Raises:
        DamagedModelError: a file is missing, or has another size or checksum.
        FileNotFoundError: the folder or its manifest is not there.
    """
    manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text())
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["size"]:
            raise DamagedModelError(f"{path} is missing or has not its {facts['size']} bytes")
        if contents and sha256(path) != facts["sha256"]:
            raise DamagedModelError(f"{path} has not the checksum {facts['sha256']}")
    return ModelFolder(folder, manifest["checksum"])


def slug(text: str) -> str:
    """A folder name that is unlike that of any other text."""
    return f"{re.sub('[^A-Za-z0-9.]+', '-', text).strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def make_once(
    cache: Path, key: str, make: Callable[[Path], dict[str, Any]], *, report: Report = silent
) -> ModelFolder:
    """The cached folder for ``key``, made by ``make(folder)`` when it is not there or damaged.

    Args:
        cache: the cache folder.
        key: what it holds; its version is part of it.
        make: fills an empty folder and returns facts for the manifest.
        report: progress of hashing.

    Raises:
        TimeoutError: another process has been making it for a quarter of an hour.
        OSError: the cache cannot be written.
    """
    home = cache / "models"
    folder = home / slug(key)
    with _ignoring_damage():
        return check(folder)
    home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{folder}.lock", timeout=LOCK_SECONDS):
            with _ignoring_damage():
                return check(folder)
            return _make(folder, key, make, report)
    except Timeout as error:
        raise TimeoutError(
            f"another process has held {folder}.lock for {LOCK_SECONDS:.0f} s; if none is alive, remove it"
        ) from error


def _make(folder: Path, key: str, make: Callable[[Path], dict[str, Any]], report: Report) -> ModelFolder:
    draft = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    facts = make(draft)
    files = {
        str(path.relative_to(draft)): {"size": path.stat().st_size, "sha256": sha256(path, report)}
        for path in _files(draft)
    }
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    manifest = {"model": key, "checksum": digest, "files": files, **facts}
    (draft / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)
    return ModelFolder(folder, digest)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


@contextmanager
def _ignoring_damage() -> Iterator[None]:
    try:
        yield
    except (DamagedModelError, FileNotFoundError, json.JSONDecodeError, KeyError):
        return


def existing(path: Path, uri: object) -> ModelFolder:
    """A folder that a user put there.

    Raises:
        ModelNotFoundError: it is not there or holds no config.json.
    """
    if not (path / "config.json").is_file():
        what = "has no config.json" if path.is_dir() else "is not a folder"
        raise ModelNotFoundError(f"{uri}: {path} {what}; it must hold a transformers model")
    return ModelFolder(path)
