"""A real Kubernetes control plane on loopback: etcd and kube-apiserver from the folder $KUBEBUILDER_ASSETS.

The folder is laid out as envtest's: kube-apiserver, etcd, kubectl. Nodes,
schedulers and controllers are not started here.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

START_SECONDS = 90.0


class ControlPlaneError(RuntimeError):
    """The control plane did not start; the message ends with its log."""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ControlPlane:
    """etcd and kube-apiserver for as long as the context lasts.

    Attributes:
        url: of the API server.
        kubeconfig: for a cluster administrator.
    """

    def __init__(self, folder: Path, assets: Path | None = None) -> None:
        self.assets = assets or Path(os.environ["KUBEBUILDER_ASSETS"])
        self.folder = folder
        self.url = ""
        self.kubeconfig = folder / "kubeconfig"
        self._token = secrets.token_hex(16)
        self._processes = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self._processes.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.close()

    def _start(self) -> None:
        client, peer, port = free_port(), free_port(), free_port()
        etcd = f"http://127.0.0.1:{client}"
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )
        key = self._service_account_key()
        tokens = self.folder / "tokens.csv"
        tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')
        self.url = f"https://127.0.0.1:{port}"
        server = self._run(
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self.folder / 'certificates'}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--disable-admission-plugins=ServiceAccount",
            "--allow-privileged=true",
        )
        self._wait(server)
        self._write_kubeconfig()

    def _run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = self._processes.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen([self.assets / name, *arguments], stdout=log, stderr=log)
        self._processes.callback(_stop, process)
        return process

    def _service_account_key(self) -> Path:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        path = self.folder / "service-account.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        return path

    def _wait(self, server: subprocess.Popen[bytes]) -> None:
        trusting = ssl._create_unverified_context()
        request = urllib.request.Request(
            f"{self.url}/readyz", headers={"Authorization": f"Bearer {self._token}"}
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and server.poll() is None:
            try:
                with urllib.request.urlopen(request, timeout=2, context=trusting) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        tail = (self.folder / "kube-apiserver.log").read_text(errors="replace")[-3000:]
        raise ControlPlaneError(f"kube-apiserver is not ready after {START_SECONDS:.0f} s:\n{tail}")

    def _write_kubeconfig(self) -> None:
        self.kubeconfig.write_text(yaml.safe_dump(self.config_for(self._token)))

    def config_for(self, token: str) -> dict[str, Any]:
        """A kubeconfig for the bearer of a token, such as a service account's."""
        server = {"server": self.url, "insecure-skip-tls-verify": True}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
            "current-context": "test",
        }

    def kubectl(
        self, *arguments: str, text: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl as administrator; ``text`` is its standard input."""
        return subprocess.run(
            [self.assets / "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments],
            input=text,
            text=True,
            capture_output=True,
            timeout=60,
            check=check,
        )

    def get(self, *arguments: str) -> dict[str, Any]:
        """``kubectl get ... -o json`` as an object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)
        return found


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
