"""Options that several servers' command lines have, and what reads their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from goodspeed_runtime import logs
from goodspeed_runtime.models import dtype
from goodspeed_runtime.protocol.rule import VerificationName

T = TypeVar("T")

Name = Annotated[str, typer.Option(envvar="GOODSPEED_NAME", help="Unique name.", show_default="the host's")]
Cluster = Annotated[str, typer.Option(envvar="GOODSPEED_CLUSTER", help="Cluster label of every metric.")]
DType = Annotated[
    dtype.DType,
    typer.Option(envvar="GOODSPEED_DTYPE", help="auto is the fastest that the device multiplies itself."),
]
Device = Annotated[
    dtype.Device, typer.Option(envvar="GOODSPEED_DEVICE", help="auto is CUDA when there is one.")
]
Threads = Annotated[
    int, typer.Option(envvar="GOODSPEED_THREADS", min=0, help="CPU threads; 0 leaves it to torch.")
]
Cache = Annotated[
    Path | None,
    typer.Option(envvar="GOODSPEED_CACHE", help="Model cache.", show_default="~/.cache/goodspeed"),
]
Verification = Annotated[
    VerificationName,
    typer.Option(
        envvar="GOODSPEED_VERIFICATION",
        help="The rule that keeps answers lossless, the same on both sides: rejection sampling, or shared "
        "noise.",
    ),
]
Address = Annotated[str, typer.Option(envvar="GOODSPEED_ADDRESS", help="IP address to listen on.")]
LogFormat = Annotated[logs.LogFormat, typer.Option(envvar="GOODSPEED_LOG_FORMAT", help="text or json.")]
LogLevel = Annotated[str, typer.Option(envvar="GOODSPEED_LOG_LEVEL", help="debug, info, warning or error.")]

EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - a pod's address is its own


def parsed(parse: Callable[[str], T], text: str, option: str) -> T:
    """An option's value; leaves with the option's name where there is none."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
