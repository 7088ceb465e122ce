"""The HTTP API: OpenAI's routes, health, readiness and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from goodspeed_runtime.drafter import errors
from goodspeed_runtime.drafter.access import Access
from goodspeed_runtime.drafter.answer import AnswerError
from goodspeed_runtime.drafter.completion import Completions, Piece
from goodspeed_runtime.drafter.forms import ChatForm, CompletionForm, Form
from goodspeed_runtime.drafter.schemas import ChatRequest, CompletionRequest, UnsupportedParameterError
from goodspeed_runtime.metrics import DrafterMetrics, expose

logger = logging.getLogger(__name__)

LARGEST_BODY_BYTES = 4 << 20
CLIENT_GONE = 499
_UNREAD_PIECES = 64
_FAULT = AnswerError(500, "internal_error", "this drafter has a fault; its log says more")

Body = TypeVar("Body", ChatRequest, CompletionRequest)


def application(
    completions: Callable[[], Completions | None],
    metrics: DrafterMetrics,
    ready: Callable[[], str],
    access: Access,
) -> FastAPI:
    """The ASGI application.

    Args:
        completions: answers requests; None while the model is being loaded.
        metrics: what /metrics shows.
        ready: why requests cannot be answered; empty when they can.
        access: who may ask, and for whom; health and metrics are anybody's.
    """
    app = FastAPI(title="goodspeed drafter", version="1", redoc_url=None)
    started = int(time.time())

    def service() -> Completions:
        found = completions()
        if found is None:
            raise AnswerError(503, "not_ready", ready())
        return found

    async def parse(request: Request, model: type[Body]) -> Body:
        data = b""
        async for chunk in request.stream():
            data += chunk
            if len(data) > LARGEST_BODY_BYTES:
                raise AnswerError(413, "body_too_large", f"the body is over {LARGEST_BODY_BYTES} bytes")
        try:
            decoded = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise AnswerError(400, "invalid_json", f"the body is no JSON: {error}") from error
        try:
            return model.model_validate(decoded)
        except UnsupportedParameterError as error:
            raise AnswerError(400, "unsupported_parameter", str(error), error.name) from error
        except ValidationError as error:
            raise errors.of_validation(error) from error

    @app.exception_handler(AnswerError)
    async def refused(_: Request, error: AnswerError) -> Response:
        metrics.finished(error.status)
        return errors.response(error)

    @app.exception_handler(404)
    async def missing(request: Request, _: Any) -> Response:
        return errors.response(
            AnswerError(404, "not_found", f"{request.url.path} is not here; see /docs for what is")
        )

    @app.exception_handler(405)
    async def misused(request: Request, _: Any) -> Response:
        return errors.response(
            AnswerError(405, "method_not_allowed", f"{request.url.path} does not take {request.method}")
        )

    @app.exception_handler(500)
    async def broken(_: Request, error: Exception) -> Response:
        logger.error("a request failed", exc_info=error)
        return await refused(_, _FAULT)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        trouble = ready()
        return PlainTextResponse(f"{trouble or 'ok'}\n", status_code=503 if trouble else 200)

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics(request: Request) -> Response:
        text, content_type = expose(metrics.registry, request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The model that is served."""
        access.tenant(request.headers)
        entry = {
            "id": service().served_model_name,
            "object": "model",
            "created": started,
            "owned_by": "goodspeed",
        }
        return {"object": "list", "data": [entry]}

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        """One model, if it is the one that is served."""
        entry: dict[str, Any] = (await models(request))["data"][0]
        if name != entry["id"]:
            raise AnswerError(404, "model_not_found", f"model {name!r} is not served here", "model")
        return entry

    @app.post("/v1/chat/completions", openapi_extra=_schema(ChatRequest))
    async def chat(request: Request) -> Response:
        """Answer a chat."""
        tenant = access.tenant(request.headers)
        return await _unless_gone(request, answer(await parse(request, ChatRequest), tenant))

    @app.post("/v1/completions", openapi_extra=_schema(CompletionRequest))
    async def complete(request: Request) -> Response:
        """Go on from a prompt."""
        tenant = access.tenant(request.headers)
        return await _unless_gone(request, answer(await parse(request, CompletionRequest), tenant))

    async def answer(body: ChatRequest | CompletionRequest, tenant: str) -> Response:
        found = service()
        # A long prompt takes a while, and others' answers must not wait for it.
        prompts = await asyncio.to_thread(found.prompts, body)
        form = ChatForm(body) if isinstance(body, ChatRequest) else CompletionForm(body)
        seed = found.seed(body)
        choices = [(index, prompt) for index, prompt in enumerate(p for p in prompts for _ in range(body.n))]
        if body.stream:
            pieces = [found.pieces(body, prompt, index, seed, tenant) for index, prompt in choices]
            stream = _merged(pieces, found.patience_seconds)
            first = await anext(stream)
            return StreamingResponse(
                _events(form, prompts, stream, first, metrics),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache"},
            )
        tasks = [
            asyncio.create_task(found.whole(body, prompt, index, seed, tenant)) for index, prompt in choices
        ]
        try:
            wholes = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        usage = _usage(prompts, sum(len(whole.tokens) for whole in wholes))
        _count(metrics, usage)
        return JSONResponse(form.whole(prompts, wholes, usage))

    return app


def _schema(model: type[ChatRequest | CompletionRequest]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _usage(prompts: list[list[int]], completion: int) -> dict[str, int]:
    prompt = sum(len(tokens) for tokens in prompts)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _count(metrics: DrafterMetrics, usage: dict[str, int]) -> None:
    metrics.finished(200)
    metrics.prompt_tokens.inc(usage["prompt_tokens"])
    metrics.completion_tokens.inc(usage["completion_tokens"])


async def _unless_gone(request: Request, answering: Coroutine[Any, Any, Response]) -> Response:
    """The response, unless the client leaves first: then the work is called off.

    Once a stream has begun, Starlette itself notices.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, gone = asyncio.create_task(answering), asyncio.create_task(leave())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise AnswerError(CLIENT_GONE, "client_closed_request", "the client has gone")
        return work.result()
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _merged(
    streams: list[AsyncIterator[Piece]], patience_seconds: float
) -> AsyncIterator[tuple[int, Piece]]:
    """Pieces of several answers as they come, each with the index of its answer.

    Whoever takes no piece for ``patience_seconds`` gets an error in place of the rest, and
    the answers' places are free.
    """
    queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue(_UNREAD_PIECES)

    async def put(index: int, item: Piece | Exception | None) -> None:
        async with asyncio.timeout(patience_seconds):
            await queue.put((index, item))

    async def pump(index: int, stream: AsyncIterator[Piece]) -> None:
        try:
            async with aclosing(stream) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    await put(index, piece)
            await put(index, None)
        except TimeoutError:
            queue.get_nowait()
            unread = AnswerError(CLIENT_GONE, "client_too_slow", "the stream was not read for too long")
            queue.put_nowait((index, unread))
        except Exception as error:  # noqa: BLE001 - raised where the pieces are taken
            await queue.put((index, error))

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _events(
    form: Form,
    prompts: list[list[int]],
    stream: AsyncIterator[tuple[int, Piece]],
    first: tuple[int, Piece],
    metrics: DrafterMetrics,
) -> AsyncIterator[str]:
    """The lines of a server-sent event stream."""
    tokens = 0
    begun: set[int] = set()

    def line(data: Any) -> str:
        return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"

    async with aclosing(stream) as pieces:  # type: ignore[type-var]
        try:
            item: tuple[int, Piece] | None = first
            while item is not None:
                index, piece = item
                tokens += len(piece.tokens)
                yield line(form.chunk(index, piece, begins=index not in begun, prompts=prompts))
                begun.add(index)
                item = await anext(pieces, None)
        except AnswerError as error:
            metrics.finished(error.status)
            yield line(errors.body(error))
            return
        except (asyncio.CancelledError, GeneratorExit):
            metrics.finished(CLIENT_GONE)
            raise
        except Exception:
            logger.exception("a stream failed")
            metrics.finished(500)
            yield line(errors.body(_FAULT))
            return
        usage = _usage(prompts, tokens)
        _count(metrics, usage)
        if form.request.stream_options and form.request.stream_options.include_usage:
            yield line({**form.head(chunk=True), "choices": [], "usage": usage})
        yield "data: [DONE]\n\n"
