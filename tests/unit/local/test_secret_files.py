"""Secrets that a pod mounts become files, which nobody else can read."""

import stat

import pytest
from manifests import pod

from goodspeed_operator.local.container import ContainerError
from goodspeed_operator.local.fleet import volumes_of
from goodspeed_operator.local.secret_files import secret_sources

SECRETS = {("demo", "one"): {"token": "first\n"}, ("demo", "two"): {"a": "x", "b": "y"}}
ONE = {"secret": {"name": "one", "items": [{"key": "token", "path": "gold"}]}}


def mounted(volume, tmp_path, secrets=SECRETS):
    return volumes_of(pod({"name": "main"}, volumes=[{"name": "keys", **volume}]), tmp_path, secrets)["keys"]


def test_projected_entries_have_the_names_that_were_asked_for_and_are_private(tmp_path):
    folder = mounted({"projected": {"sources": [ONE, {"secret": {"name": "two"}}]}}, tmp_path)
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "gold": "first\n",
        "a": "x",
        "b": "y",
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_what_an_earlier_run_left_is_gone(tmp_path):
    first = mounted({"secret": {"secretName": "two"}}, tmp_path)
    second = mounted({"projected": {"sources": [ONE]}}, tmp_path)
    assert first == second
    assert [file.name for file in second.iterdir()] == ["gold"]


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ({"secret": {"secretName": "three"}}, "Secret three is not there; put it into the file"),
        (
            {"secret": {"secretName": "one", "items": [{"key": "k", "path": "k"}]}},
            "Secret one has no key 'k'",
        ),
    ],
)
def test_what_is_not_there_is_named_unless_it_is_optional(volume, words, tmp_path):
    with pytest.raises(ContainerError, match=words):
        mounted(volume, tmp_path)
    optional = {"secret": volume["secret"] | {"optional": True}}
    assert list(mounted(optional, tmp_path).iterdir()) == []


def test_a_volume_without_secrets_has_none():
    token = {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    assert secret_sources(token) == []
    assert secret_sources({"emptyDir": {}}) == []
