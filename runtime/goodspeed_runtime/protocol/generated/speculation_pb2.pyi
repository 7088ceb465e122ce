from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verification(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERIFICATION_UNSPECIFIED: _ClassVar[Verification]
    REJECTION: _ClassVar[Verification]
    COUPLED: _ClassVar[Verification]

class Finish(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_NONE: _ClassVar[Finish]
    FINISH_STOP: _ClassVar[Finish]
    FINISH_LENGTH: _ClassVar[Finish]

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_UNSPECIFIED: _ClassVar[ErrorCode]
    PROTOCOL_VERSION_UNSUPPORTED: _ClassVar[ErrorCode]
    VOCABULARY_MISMATCH: _ClassVar[ErrorCode]
    MALFORMED: _ClassVar[ErrorCode]
    INVALID_TOKEN: _ClassVar[ErrorCode]
    INVALID_DISTRIBUTION: _ClassVar[ErrorCode]
    INVALID_SAMPLING: _ClassVar[ErrorCode]
    OVER_GRANT: _ClassVar[ErrorCode]
    WRONG_POSITION: _ClassVar[ErrorCode]
    UNKNOWN_SEQUENCE: _ClassVar[ErrorCode]
    DUPLICATE_SEQUENCE: _ClassVar[ErrorCode]
    PROMPT_TOO_LONG: _ClassVar[ErrorCode]
    OVERLOADED: _ClassVar[ErrorCode]
    DRAINING: _ClassVar[ErrorCode]
    INTERNAL: _ClassVar[ErrorCode]
    UNKNOWN_TENANT: _ClassVar[ErrorCode]
VERIFICATION_UNSPECIFIED: Verification
REJECTION: Verification
COUPLED: Verification
FINISH_NONE: Finish
FINISH_STOP: Finish
FINISH_LENGTH: Finish
ERROR_UNSPECIFIED: ErrorCode
PROTOCOL_VERSION_UNSUPPORTED: ErrorCode
VOCABULARY_MISMATCH: ErrorCode
MALFORMED: ErrorCode
INVALID_TOKEN: ErrorCode
INVALID_DISTRIBUTION: ErrorCode
INVALID_SAMPLING: ErrorCode
OVER_GRANT: ErrorCode
WRONG_POSITION: ErrorCode
UNKNOWN_SEQUENCE: ErrorCode
DUPLICATE_SEQUENCE: ErrorCode
PROMPT_TOO_LONG: ErrorCode
OVERLOADED: ErrorCode
DRAINING: ErrorCode
INTERNAL: ErrorCode
UNKNOWN_TENANT: ErrorCode

class DrafterFrame(_message.Message):
    __slots__ = ("hello", "opens", "drafts", "closes")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OPENS_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    opens: _containers.RepeatedCompositeFieldContainer[Open]
    drafts: _containers.RepeatedCompositeFieldContainer[Draft]
    closes: _containers.RepeatedCompositeFieldContainer[Close]
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., opens: _Optional[_Iterable[_Union[Open, _Mapping]]] = ..., drafts: _Optional[_Iterable[_Union[Draft, _Mapping]]] = ..., closes: _Optional[_Iterable[_Union[Close, _Mapping]]] = ...) -> None: ...

class VerifierFrame(_message.Message):
    __slots__ = ("welcome", "opened", "verdicts", "errors", "drain", "round_us")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    ROUND_US_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    opened: _containers.RepeatedCompositeFieldContainer[Opened]
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    errors: _containers.RepeatedCompositeFieldContainer[Error]
    drain: Drain
    round_us: int
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., opened: _Optional[_Iterable[_Union[Opened, _Mapping]]] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., errors: _Optional[_Iterable[_Union[Error, _Mapping]]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., round_us: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_version", "drafter", "pool", "draft_model", "model_fingerprint", "tokenizer_fingerprint", "vocabulary_size", "max_draft_tokens", "weight")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    DRAFT_MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    drafter: str
    pool: str
    draft_model: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    vocabulary_size: int
    max_draft_tokens: int
    weight: float
    def __init__(self, protocol_version: _Optional[int] = ..., drafter: _Optional[str] = ..., pool: _Optional[str] = ..., draft_model: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., tokenizer_fingerprint: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., max_draft_tokens: _Optional[int] = ..., weight: _Optional[float] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol_version", "verifier", "target_model", "model_fingerprint", "tokenizer_fingerprint", "vocabulary_size", "max_context_tokens", "verification")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    VERIFICATION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    verifier: str
    target_model: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    vocabulary_size: int
    max_context_tokens: int
    verification: Verification
    def __init__(self, protocol_version: _Optional[int] = ..., verifier: _Optional[str] = ..., target_model: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., tokenizer_fingerprint: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., max_context_tokens: _Optional[int] = ..., verification: _Optional[_Union[Verification, str]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("sequence", "tokens", "prompt_tokens", "max_tokens", "sampling", "stop_tokens", "tenant")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    tokens: bytes
    prompt_tokens: int
    max_tokens: int
    sampling: Sampling
    stop_tokens: bytes
    tenant: str
    def __init__(self, sequence: _Optional[int] = ..., tokens: _Optional[bytes] = ..., prompt_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., stop_tokens: _Optional[bytes] = ..., tenant: _Optional[str] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("sequence", "position", "token", "grant", "finish", "least_chance")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    LEAST_CHANCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    position: int
    token: int
    grant: int
    finish: Finish
    least_chance: int
    def __init__(self, sequence: _Optional[int] = ..., position: _Optional[int] = ..., token: _Optional[int] = ..., grant: _Optional[int] = ..., finish: _Optional[_Union[Finish, str]] = ..., least_chance: _Optional[int] = ...) -> None: ...

class Draft(_message.Message):
    __slots__ = ("sequence", "position", "tokens", "support_sizes", "support_ids", "support_weights", "held_us")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_SIZES_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_IDS_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    HELD_US_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    position: int
    tokens: bytes
    support_sizes: bytes
    support_ids: bytes
    support_weights: bytes
    held_us: int
    def __init__(self, sequence: _Optional[int] = ..., position: _Optional[int] = ..., tokens: _Optional[bytes] = ..., support_sizes: _Optional[bytes] = ..., support_ids: _Optional[bytes] = ..., support_weights: _Optional[bytes] = ..., held_us: _Optional[int] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("sequence", "position", "accepted", "next_token", "has_next_token", "grant", "finish", "draft_awaited", "least_chance")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NEXT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    HAS_NEXT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    DRAFT_AWAITED_FIELD_NUMBER: _ClassVar[int]
    LEAST_CHANCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    position: int
    accepted: int
    next_token: int
    has_next_token: bool
    grant: int
    finish: Finish
    draft_awaited: bool
    least_chance: int
    def __init__(self, sequence: _Optional[int] = ..., position: _Optional[int] = ..., accepted: _Optional[int] = ..., next_token: _Optional[int] = ..., has_next_token: _Optional[bool] = ..., grant: _Optional[int] = ..., finish: _Optional[_Union[Finish, str]] = ..., draft_awaited: _Optional[bool] = ..., least_chance: _Optional[int] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("sequence", "code", "message")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    code: ErrorCode
    message: str
    def __init__(self, sequence: _Optional[int] = ..., code: _Optional[_Union[ErrorCode, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("verifier", "reason")
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    verifier: str
    reason: str
    def __init__(self, verifier: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
