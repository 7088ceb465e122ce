"""Asks a pod what its probes ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping

import httpx

from goodspeed_operator.local.probe import Action, Exec, Grpc, HttpGet, Probe, TcpSocket


class Prober:
    """Asks; every way to fail is an answer of False with its reason."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(verify=False, trust_env=False, follow_redirects=False)  # noqa: S501

    async def ask(self, probe: Probe, address: str, environment: Mapping[str, str]) -> tuple[bool, str]:
        """One question, and in words what was wrong, empty when nothing was.

        Args:
            probe: what to ask, and its timeout.
            address: the pod's.
            environment: of the container, for commands.
        """
        try:
            async with asyncio.timeout(probe.timeout):
                return await self._ask(probe.action, address, environment)
        except TimeoutError:
            return False, f"no answer in {probe.timeout:g} s"

    async def _ask(self, action: Action, address: str, environment: Mapping[str, str]) -> tuple[bool, str]:
        match action:
            case HttpGet():
                return await self._http_get(action, address)
            case Grpc():
                return await _grpc(action, address)
            case TcpSocket():
                return await _tcp(action, address)
            case Exec():
                return await _exec(action, environment)

    async def _http_get(self, action: HttpGet, address: str) -> tuple[bool, str]:
        url = f"{action.scheme}://{address}:{action.port}{action.path}"
        try:
            response = await self._http.get(url, timeout=None)
        except httpx.HTTPError as error:
            return False, f"{url}: {error or type(error).__name__}"
        if 200 <= response.status_code < 400:
            return True, ""
        return False, f"{url}: {response.status_code} {response.text[:200].strip()}"

    async def close(self) -> None:
        """Closes connections."""
        await self._http.aclose()


async def _grpc(action: Grpc, address: str) -> tuple[bool, str]:
    import grpc.aio
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    target = f"{address}:{action.port}"
    async with grpc.aio.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=action.service)
            )
        except grpc.aio.AioRpcError as error:
            return False, f"grpc {target}: {error.code().name.lower().replace('_', ' ')}"
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return serving, "" if serving else f"grpc {target}: not serving"


async def _tcp(action: TcpSocket, address: str) -> tuple[bool, str]:
    try:
        _, writer = await asyncio.open_connection(address, action.port)
    except OSError as error:
        return False, f"{address}:{action.port}: {os.strerror(error.errno) if error.errno else error}"
    writer.close()
    return True, ""


async def _exec(action: Exec, environment: Mapping[str, str]) -> tuple[bool, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *action.command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        return False, f"{action.command[0]}: {error.strerror}"
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return code == 0, "" if code == 0 else f"{action.command[0]} exited with {code}"
