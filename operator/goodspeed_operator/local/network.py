"""Addresses and names of pods on one machine: every pod its own loopback address.

Linux answers on all of 127.0.0.0/8, so pods keep the ports of their manifests
and never meet. There is no DNS server; the names that a cluster's DNS would
resolve are replaced in environment and arguments before a process starts.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from goodspeed_operator.local.expansion import Manifest

_LOCK_PORT = 6443
_FIRST_POD = 2
PODS_PER_BLOCK = 253
_BLOCKS = range(1, 255)


class NoAddressError(RuntimeError):
    """No loopback addresses are to be had."""


class Block:
    """A /24 of loopback addresses that no other runner on this machine uses.

    A listening socket on its first address is the claim; the kernel gives it up
    with the process, however that ends.
    """

    def __init__(self) -> None:
        for number in _BLOCKS:
            claim = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                claim.bind((f"127.0.{number}.1", _LOCK_PORT))
                claim.listen(1)
            except OSError as error:
                claim.close()
                refusal = error
                continue
            self.number, self._claim = number, claim
            self.network = ipaddress.IPv4Network(f"127.0.{number}.0/24")
            return
        raise NoAddressError(
            f"no free block of loopback addresses between 127.0.1.0/24 and 127.0.254.0/24 ({refusal}); "
            "stop another `goodspeed up`, or give the loopback aliases where the system has only 127.0.0.1"
        )

    def address(self, index: int) -> str:
        """The address of the pod with that index, from 0.

        Raises:
            NoAddressError: the block is used up.
        """
        if not 0 <= index < PODS_PER_BLOCK:
            raise NoAddressError(
                f"one machine runs at most {PODS_PER_BLOCK} pods per fleet: ask for fewer replicas"
            )
        return str(self.network[_FIRST_POD + index])

    def release(self) -> None:
        """Lets the next runner have the block."""
        self._claim.close()


def selects(service: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether a Service's selector matches a pod's labels; an empty selector matches none."""
    selector = service["spec"].get("selector") or {}
    labels = pod["metadata"].get("labels") or {}
    same = service["metadata"].get("namespace", "default") == pod["metadata"].get("namespace", "default")
    return bool(selector) and same and selector.items() <= labels.items()


def records(
    pods: Iterable[Mapping[str, Any]], services: Iterable[Mapping[str, Any]], addresses: Mapping[str, str]
) -> dict[str, str]:
    """What a cluster's DNS would answer, without its domain: names ending in the namespace.

    A Service answers with the first pod that it selects, since nothing here
    stands between a client and a pod.

    Args:
        pods: manifests.
        services: manifests.
        addresses: of pods, by pod name.

    Returns:
        ``pod.service.namespace`` and ``service.namespace`` to address.
    """
    pods = list(pods)
    found: dict[str, str] = {}
    for service in services:
        name, namespace = service["metadata"]["name"], service["metadata"].get("namespace", "default")
        for pod in pods:
            if not selects(service, pod):
                continue
            address = addresses[pod["metadata"]["name"]]
            found.setdefault(f"{name}.{namespace}", address)
            if pod["spec"].get("subdomain") == name:
                found[f"{pod['spec'].get('hostname', pod['metadata']['name'])}.{name}.{namespace}"] = address
    return found


class Resolver:
    """Replaces DNS names by addresses in the text of environment and arguments."""

    def __init__(self, found: Mapping[str, str], domain: str = "cluster.local") -> None:
        self._addresses = dict(found)
        whole = "|".join(re.escape(name) for name in sorted(found, key=len, reverse=True))
        suffix = rf"(?:\.svc(?:\.{re.escape(domain)}\.?)?)?"
        self._whole = re.compile(rf"(?<![\w.-])({whole}){suffix}(?![\w.-])") if found else None

    def replace(self, text: str, namespace: str) -> str:
        """The text with every name replaced.

        Names with their namespace are replaced wherever they stand. Shorter ones,
        which look like any other word, only with a port behind or ``//`` before.
        """
        if self._whole is None:
            return text
        text = self._whole.sub(lambda match: self._addresses[match[1]], text)
        short = sorted(
            (
                name.removesuffix(f".{namespace}")
                for name in self._addresses
                if name.endswith(f".{namespace}")
            ),
            key=len,
            reverse=True,
        )
        if not short:
            return text
        names = "|".join(map(re.escape, short))
        pattern = rf"(?<=//)({names})(?![\w.-])|(?<![\w./-])({names})(?=:\d)"
        return re.sub(pattern, lambda match: self._addresses[f"{match[1] or match[2]}.{namespace}"], text)


def services_of(manifests: Iterable[Manifest]) -> list[Manifest]:
    """The Services among manifests."""
    return [manifest for manifest in manifests if manifest["kind"] == "Service"]
