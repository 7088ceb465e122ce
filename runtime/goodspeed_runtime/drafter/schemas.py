"""OpenAI's requests, typed and bounded; whatever we cannot do is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

SEED_LIMIT = 1 << 64

# Parameter -> the values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0, 0.0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "presence_penalty": (None, 0, 0.0),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
}
_IGNORED = {
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}


def _alike(value: Any, harmless: Any) -> bool:
    return isinstance(value, bool) == isinstance(harmless, bool)


def _whole_characters(text: str) -> str:
    """JSON can escape half a surrogate pair, which is no character and no tokenizer's business."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("half of a surrogate pair is no character: send both halves")
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    """What a stream adds."""

    include_usage: bool = False


class _Generation(_Strict):
    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=1 << 20)] = 0
    seed: Annotated[int, Field(ge=-(1 << 63), lt=SEED_LIMIT)] | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=4)] = []
    n: Annotated[int, Field(ge=1, le=16)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    return_token_ids: bool = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_we_cannot_do(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, harmless in _UNSUPPORTED.items():
            # 0 equals False, but "logprobs": 0 asks for the chosen token's.
            if name in data and not any(
                data[name] == value and _alike(data[name], value) for value in harmless
            ):
                raise UnsupportedParameterError(name)
        kept = {key: value for key, value in data.items() if key not in _UNSUPPORTED and key not in _IGNORED}
        for name in ("temperature", "top_p", "top_k", "n", "stop", "stream"):
            if name in kept and kept[name] is None:
                del kept[name]
        return kept

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


class UnsupportedParameterError(Exception):
    """A request asks for something that this server does not do."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not supported here; leave it out")
        self.name = name


class CompletionRequest(_Generation):
    """Body of /v1/completions."""

    prompt: (
        Text
        | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, max_length=16)]
        | Annotated[
            list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]],
            Field(min_length=1, max_length=16),
        ]
    )


class TextPart(_Strict):
    """A piece of a message's content."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] = ""
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """As a chat template takes it."""
        content = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(_Generation):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _newer_name_wins(self) -> Self:
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        return self
