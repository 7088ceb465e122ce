"""Errors in the shape that OpenAI's clients understand."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

from goodspeed_runtime.drafter.answer import AnswerError

RETRY_AFTER_SECONDS = 1
# Fields of several shapes: what is wrong with each shape in turn would only confuse.
_SHAPES = {
    "prompt": "must be a string, token ids, or a list of 1 to 16 of either, not empty",
    "content": "must be a string or a list of text parts",
}


def body(error: AnswerError) -> dict[str, Any]:
    """The error object."""
    kind = "invalid_request_error" if error.status < 429 else "server_error"
    if error.status == 429:
        kind = "rate_limit_error"
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def response(error: AnswerError) -> JSONResponse:
    """The error as a response; one worth trying again says when, one for want of a key what kind."""
    headers = {}
    if error.status in {429, 503}:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body(error), error.status, headers)


def of_validation(error: ValidationError) -> AnswerError:
    """The first thing wrong with a body, by the path of its field."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in first["loc"]]
    shaped = next((index for index, part in enumerate(path) if part in _SHAPES), None)
    if shaped is not None and len(path) > shaped + 1:
        whole = ".".join(path[: shaped + 1])
        return AnswerError(400, "invalid_value", f"{whole}: {_SHAPES[path[shaped]]}", whole)
    field = ".".join(path) or None
    if first["type"] == "extra_forbidden":
        return AnswerError(400, "unknown_parameter", f"unknown parameter {field}: leave it out", field)
    message = first["msg"].removeprefix("Value error, ")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return AnswerError(400, code, f"{field or 'body'}: {message}", field)
