"""Where a cluster of a name runs: on this machine by `goodspeed up`, else in the kubeconfig's Kubernetes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from goodspeed_operator.cli.membership import find
from goodspeed_operator.cli.session import default_state, fail

if TYPE_CHECKING:
    from goodspeed_operator.cluster.client import KubernetesAPI


def local_state(name: str, given: Path | None) -> Path | None:
    """The state folder of a fleet of this name that runs here; None where there is none."""
    return given or find(name, default_state(name).parent)


@asynccontextmanager
async def kubernetes(name: str) -> AsyncIterator[KubernetesAPI]:
    """The kubeconfig's API server; leaves with words when there is none either."""
    try:
        from kubernetes.aio.config import ConfigException

        from goodspeed_operator.cluster.client import APIError, KubernetesAPI
    except ImportError as error:
        raise _nowhere(
            name, f"no Kubernetes client ({error.name}): pip install 'goodspeed[operator]'"
        ) from error
    try:
        async with await KubernetesAPI.connect() as api:
            yield api
    except ConfigException as error:
        raise _nowhere(name, f"no kubeconfig: {error}") from error
    except APIError as error:
        raise _nowhere(name, str(error)) from error


def _nowhere(name: str, words: str) -> typer.Exit:
    return fail(f"no fleet {name!r} runs on this machine, and {words}")
