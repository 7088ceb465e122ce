"""A real Kubernetes control plane on loopback, from the folder $KUBEBUILDER_ASSETS.

The folder is laid out as envtest's: kube-apiserver, etcd, kubectl. Where it
also holds kube-controller-manager and kube-scheduler they are started too, and
with them service accounts, workload controllers and garbage collection. Every
request is in the audit log, which tests read to see who asked for what.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

START_SECONDS = 90.0

# As kubectl asks for it; an API server built with Go's second encoding/json answers this with 503.
_OPENAPI = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"

_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": ["system:apiserver"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


class ControlPlaneError(RuntimeError):
    """The control plane did not start; the message ends with its log."""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ControlPlane:
    """etcd, kube-apiserver and, where they are there, controllers and scheduler, while the context lasts.

    Attributes:
        url: of the API server.
        kubeconfig: for a cluster administrator.
        controllers: kube-controller-manager and kube-scheduler run.
    """

    def __init__(self, folder: Path, assets: Path | None = None) -> None:
        self.assets = assets or Path(os.environ["KUBEBUILDER_ASSETS"])
        self.folder = folder
        self.url = ""
        self.kubeconfig = folder / "kubeconfig"
        self.audit_log = folder / "audit.log"
        self.controllers = all(
            (self.assets / name).exists() for name in ("kube-controller-manager", "kube-scheduler")
        )
        self._token = secrets.token_hex(16)
        self._processes = ExitStack()
        self._server: tuple[str, ...] = ()
        self._running: subprocess.Popen[bytes]

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
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(_AUDIT_POLICY))
        self.url = f"https://127.0.0.1:{port}"
        self._server = (
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self.folder / 'certificates'}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-mode=blocking",
            "--allow-privileged=true",
            # Without controllers nobody makes a namespace's default service account.
            *([] if self.controllers else ["--disable-admission-plugins=ServiceAccount"]),
        )
        self._running = self._run(*self._server)
        self._wait(self._running)
        self.kubeconfig.write_text(yaml.safe_dump(self.config_for(self._token)))
        if self.controllers:
            self._start_controllers(key)

    def restart_server(self, away: float) -> None:
        """Kills the API server, and starts it again after so many seconds."""
        self._running.kill()
        self._running.wait()
        time.sleep(away)
        self._running = self._run(*self._server)
        self._wait(self._running)

    def _start_controllers(self, key: Path) -> None:
        common = (f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0")
        quick = ("--kube-api-qps=500", "--kube-api-burst=1000")
        self._run(
            "kube-controller-manager",
            *common,
            *quick,
            f"--service-account-private-key-file={key}",
            f"--root-ca-file={self.folder / 'certificates/apiserver.crt'}",
        )
        self._run("kube-scheduler", *common, *quick)

    def _run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = self._processes.enter_context((self.folder / f"{name}.log").open("ab"))
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
        deadline = time.monotonic() + START_SECONDS
        # The schemas come a moment after readiness, and kubectl validates against them.
        for path in ("/readyz", "/openapi/v2", "/openapi/v3"):
            while not self._answers(path):
                if time.monotonic() > deadline or server.poll() is not None:
                    tail = (self.folder / "kube-apiserver.log").read_text(errors="replace")[-3000:]
                    raise ControlPlaneError(f"kube-apiserver does not answer {path}:\n{tail}")
                time.sleep(0.2)

    def _answers(self, path: str) -> bool:
        accept = _OPENAPI if path == "/openapi/v2" else "*/*"
        headers = {"Authorization": f"Bearer {self._token}", "Accept": accept}
        request = urllib.request.Request(f"{self.url}{path}", headers=headers)
        trusting = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(request, timeout=10, context=trusting) as answer:
                return int(answer.status) == 200
        except OSError:
            return False

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

    def account_config(self, namespace: str, account: str) -> Path:
        """A kubeconfig file for a service account, with a token as a pod would get."""
        token = self.kubectl("-n", namespace, "create", "token", account, "--duration=2h").stdout.strip()
        path = self.folder / f"kubeconfig-{namespace}-{account}"
        path.write_text(yaml.safe_dump(self.config_for(token)))
        return path

    def kubectl(
        self, *arguments: str, text: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl as administrator; ``text`` is its standard input."""
        done = subprocess.run(
            [self.assets / "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments],
            input=text,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done

    def apply(self, *objects: dict[str, Any]) -> None:
        """``kubectl apply`` of objects."""
        self.kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(objects))

    def until_established(self, definition: str, seconds: float = 30.0) -> None:
        """Waits until a definition is served; `kubectl wait` fails on one that has no status yet."""
        column = '-o=jsonpath={.status.conditions[?(@.type=="Established")].status}'
        end = time.monotonic() + seconds
        while self.kubectl("get", "crd", definition, column, check=False).stdout != "True":
            assert time.monotonic() < end, f"{definition} is not established within {seconds:g} s"
            time.sleep(0.1)

    def get(self, *arguments: str) -> dict[str, Any]:
        """``kubectl get ... -o json`` as an object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)
        return found

    def names(self, kind: str, namespace: str) -> set[str]:
        """The names of all objects of a kind in a namespace."""
        listed = self.kubectl("-n", namespace, "get", kind, "-o", "name").stdout.split()
        return {name.partition("/")[2] for name in listed}

    def audited(self, user: str, *, since: int = 0) -> Iterator[dict[str, Any]]:
        """What a user asked for, in order; ``since`` is an earlier `audit_position`."""
        with self.audit_log.open("rb") as log:
            log.seek(since)
            for line in log:
                event = json.loads(line)
                if event["user"]["username"] == user:
                    yield event

    def audit_position(self) -> int:
        """Where the audit log ends now."""
        return self.audit_log.stat().st_size


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
