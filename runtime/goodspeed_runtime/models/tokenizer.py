"""Text to tokens and back, with the tokenizers library alone: no torch, no transformers.

A drafter that only looks prompts up needs a tokenizer and nothing else, and
should be up in a second.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream

from goodspeed_runtime.models.folder import Report, silent
from goodspeed_runtime.models.resolve import resolve
from goodspeed_runtime.models.uri import ModelNotFoundError, ModelURI

Message = Mapping[str, Any]


class ChatTemplateError(ValueError):
    """The model has no chat template, or the template refuses these messages."""


class TextStream:
    """Turns tokens into text as they come, never in the middle of a character."""

    def __init__(self, backend: Backend, prompt: Sequence[int]) -> None:
        self._backend = backend
        # A few tokens of context settle leading spaces and split characters.
        self._stream = DecodeStream(ids=list(prompt[-8:]), skip_special_tokens=True)

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is still open."""
        return self._stream.step(self._backend, token) or ""


class Tokenizer:
    """A model's tokenizer, chat template and stop tokens.

    Attributes:
        fingerprint: SHA-256 (32 hexadecimal digits) of everything that maps text to ids.
        vocabulary_size: ids it can produce.
        stop_tokens: ids that end an answer.
    """

    def __init__(self, folder: Path) -> None:
        """Reads tokenizer.json, tokenizer_config.json, generation_config.json and the template.

        Raises:
            ModelNotFoundError: there is no tokenizer.json.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelNotFoundError(f"{folder} has no tokenizer.json; only fast tokenizers are supported")
        self._backend = Backend.from_file(str(path))
        self._backend.no_padding()
        self._backend.no_truncation()
        described = _json(folder / "tokenizer_config.json")
        self._specials = {
            name: _content(described.get(name))
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        }
        self._template = _template(folder, described)
        self.vocabulary_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        self.fingerprint = _fingerprint(path)
        self.stop_tokens = self._stops(
            _json(folder / "generation_config.json"), _json(folder / "config.json")
        )

    def _stops(self, *sources: Mapping[str, Any]) -> tuple[int, ...]:
        for source in sources:
            ids = source.get("eos_token_id")
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (int(ids),)
        end = self._backend.token_to_id(self._specials["eos_token"] or "")
        return () if end is None else (end,)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Text to ids; ``special`` adds what the model's tokenizer adds by itself, such as BOS."""
        return list(self._backend.encode(text, add_special_tokens=special).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Ids to text, special tokens left out."""
        return str(self._backend.decode(list(tokens), skip_special_tokens=True))

    def text_stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """A stream of text for the tokens that follow ``prompt``."""
        return TextStream(self._backend, prompt)

    def render_chat(self, messages: Sequence[Message]) -> list[int]:
        """Messages to ids by the model's chat template, ready for the assistant's answer.

        Raises:
            ChatTemplateError: there is no template, or it refuses the messages.
        """
        if self._template is None:
            raise ChatTemplateError("this model has no chat template; use /v1/completions")
        try:
            text = self._template.render(
                messages=[dict(message) for message in messages], add_generation_prompt=True, **self._specials
            )
        except TemplateError as error:
            raise ChatTemplateError(f"the model's chat template refuses the messages: {error}") from error
        return self.encode(text, special=False)


def load_tokenizer(uri: ModelURI, *, cache: Path | None = None, report: Report = silent) -> Tokenizer:
    """The tokenizer of the model at ``uri``.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    return Tokenizer(resolve(uri, cache=cache, report=report).path)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _template(folder: Path, described: Mapping[str, Any]) -> Any:
    path = folder / "chat_template.jinja"
    text = path.read_text() if path.is_file() else described.get("chat_template")
    if isinstance(text, list):
        text = next((entry["template"] for entry in text if entry.get("name") == "default"), None)
    if not text:
        return None
    # A template comes with the weights, so from strangers: it runs in a sandbox.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    return environment.from_string(text)


def _fingerprint(path: Path) -> str:
    described = json.loads(path.read_text())
    mapping = {
        key: described.get(key)
        for key in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
    }
    text = json.dumps(mapping, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
