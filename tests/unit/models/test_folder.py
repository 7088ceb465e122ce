"""A model's folder is made once, whole or not at all, and noticed when it is damaged."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from goodspeed_runtime.models import folder as folders
from goodspeed_runtime.models.folder import DamagedModelError, cache_folder, check, existing, make_once
from goodspeed_runtime.models.uri import ModelNotFoundError


class Making:
    """Fills a folder, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.times += 1
        (folder / "weights").write_bytes(b"w" * 1000)
        return {"source": "here"}


def test_a_folder_is_made_once_and_found_afterwards(tmp_path: Path) -> None:
    making = Making()
    first, second = (make_once(tmp_path, "a://b", making) for _ in range(2))
    assert making.times == 1
    assert first == second
    assert len(first.checksum) == 64
    assert json.loads((first.path / "goodspeed.json").read_text())["source"] == "here"


def test_different_keys_that_spell_alike_get_folders_of_their_own(tmp_path: Path) -> None:
    assert make_once(tmp_path, "a/b", Making()).path != make_once(tmp_path, "a-b", Making()).path


def test_a_truncated_file_makes_the_folder_again(tmp_path: Path) -> None:
    making = Making()
    made = make_once(tmp_path, "key", making)
    (made.path / "weights").write_bytes(b"w")
    assert make_once(tmp_path, "key", making) == made
    assert making.times == 2


def test_a_changed_byte_is_found_by_a_check_of_contents(tmp_path: Path) -> None:
    made = make_once(tmp_path, "key", Making())
    (made.path / "weights").write_bytes(b"x" * 1000)
    check(made.path)
    with pytest.raises(DamagedModelError, match="has not the checksum"):
        check(made.path, contents=True)


def test_a_making_that_fails_leaves_no_folder_behind(tmp_path: Path) -> None:
    def fails(folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        make_once(tmp_path, "key", fails)
    making = Making()
    made = make_once(tmp_path, "key", making)
    assert sorted(path.name for path in made.path.iterdir()) == ["goodspeed.json", "weights"]


def _make_slowly(cache: Path, log: Path) -> None:
    def slowly(folder: Path) -> dict[str, Any]:
        with log.open("a") as file:
            file.write("made\n")
        return Making()(folder)

    make_once(cache, "key", slowly)


def test_processes_that_ask_at_once_make_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    them = [context.Process(target=_make_slowly, args=(tmp_path / "cache", log)) for _ in range(4)]
    for process in them:
        process.start()
    for process in them:
        process.join(60)
    assert [process.exitcode for process in them] == [0] * 4
    assert log.read_text() == "made\n"


def test_a_lock_that_somebody_holds_too_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "LOCK_SECONDS", 0.1)
    lock = tmp_path / "models" / f"{folders.slug('key')}.lock"
    lock.parent.mkdir()
    with folders.FileLock(lock), pytest.raises(TimeoutError, match=r"\.lock.*remove it"):
        make_once(tmp_path, "key", Making())


def test_a_users_folder_must_hold_a_transformers_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json"):
        existing(tmp_path, "file:///x")
    with pytest.raises(ModelNotFoundError, match="is not a folder"):
        existing(tmp_path / "none", "file:///x")
    (tmp_path / "config.json").write_text("{}")
    assert existing(tmp_path, "file:///x").path == tmp_path


def test_the_cache_is_the_one_chosen_else_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOODSPEED_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert cache_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.delenv("GOODSPEED_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "goodspeed"
