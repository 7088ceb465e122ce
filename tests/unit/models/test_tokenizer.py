"""Text to ids and back; templates from strangers run in a sandbox."""

import json
from pathlib import Path

import pytest

import tiny_model
from goodspeed_runtime.models.tokenizer import ChatTemplateError, Tokenizer
from goodspeed_runtime.models.uri import ModelNotFoundError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("model") / "tiny")


def with_template(folder: Path, into: Path, template: str | None) -> Tokenizer:
    (into / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    described = {"eos_token": tiny_model.END} | ({"chat_template": template} if template else {})
    (into / "tokenizer_config.json").write_text(json.dumps(described))
    return Tokenizer(into)


def test_a_chat_is_rendered_by_the_models_template(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    ids = tokenizer.render_chat([{"role": "user", "content": "hi"}])
    assert tokenizer.decode(ids) == "<|user|>hi\n<|assistant|>"


def test_text_comes_character_by_character_never_a_part_of_one(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    text = "naïve 🚀 日本"
    stream = tokenizer.text_stream()
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)


def test_a_model_without_a_template_says_what_to_use_instead(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError, match="use /v1/completions"):
        with_template(folder, tmp_path, None).render_chat([])


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_a_template_may_refuse_and_may_not_reach_out(
    folder: Path, tmp_path: Path, template: str, why: str
) -> None:
    with pytest.raises(ChatTemplateError, match=why):
        with_template(folder, tmp_path, template).render_chat([{"role": "user", "content": "hi"}])


def test_the_end_is_the_configurations_else_the_tokenizers(folder: Path, tmp_path: Path) -> None:
    tokenizer = with_template(folder, tmp_path, None)
    (end,) = tokenizer.stop_tokens
    assert tokenizer.decode([end]) == ""
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}')
    assert Tokenizer(tmp_path).stop_tokens == (5,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    assert Tokenizer(tmp_path).stop_tokens == (6, 7)


def test_another_vocabulary_is_another_fingerprint_and_another_template_is_not(
    folder: Path, tmp_path: Path
) -> None:
    plain = Tokenizer(folder)
    assert with_template(folder, tmp_path, "{{ 1 }}").fingerprint == plain.fingerprint
    larger = Tokenizer(tiny_model.make(tmp_path / "larger", extra=1))
    assert larger.fingerprint != plain.fingerprint
    assert larger.vocabulary_size == plain.vocabulary_size + 1


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)
