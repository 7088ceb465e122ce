from pathlib import Path

import pytest
from manifests import pod

from goodspeed_operator.local.container import ContainerError, Surroundings, resolve

CONFIG = {("demo", "settings"): {"GOODSPEED_BUDGET_TOKENS": "32", "GOODSPEED_CLUSTER": "demo"}}


def resolved(container, around=None, **spec):
    container = {"name": "main", "command": ["serve"], **container}
    return resolve(pod(container, **spec), container, around or Surroundings("127.0.9.2"))


def test_environment_is_put_together_in_kubernetes_order():
    around = Surroundings(
        "127.0.9.2",
        config_maps=CONFIG,
        base={"PATH": "/bin", "GOODSPEED_CLUSTER": "outer"},
        forced={"GOODSPEED_CACHE": "/cache"},
    )
    command = resolved(
        {
            "envFrom": [
                {"configMapRef": {"name": "settings"}},
                {"configMapRef": {"name": "none", "optional": True}},
            ],
            "env": [
                {"name": "GOODSPEED_BUDGET_TOKENS", "value": "64"},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "URL", "value": "http://$(IP):8000/$(POD) $$(POD) $(UNSET)"},
                {"name": "GOODSPEED_CACHE", "value": "/var/cache"},
            ],
            "args": ["--name", "$(POD)"],
        },
        around,
    )
    assert dict(command.environment) == {
        "PATH": "/bin",
        "GOODSPEED_CLUSTER": "demo",
        "GOODSPEED_BUDGET_TOKENS": "64",
        "POD": "one-0",
        "IP": "127.0.9.2",
        "APP": "one",
        "URL": "http://127.0.9.2:8000/one-0 $(POD) $(UNSET)",
        "GOODSPEED_CACHE": "/cache",
    }
    assert command.argv == ("serve", "--name", "one-0")


def test_names_and_mount_paths_become_this_machines():
    around = Surroundings(
        "127.0.9.2",
        replace=lambda text: text.replace("verifier.demo.svc", "127.0.9.3"),
        volumes={"models": Path("/home/me/models"), "tmp": Path("/home/me/tmp")},
    )
    command = resolved(
        {
            "args": ["--model", "file:///models/target", "--other", "/modelsx", "/tmp/x"],
            "env": [{"name": "GOODSPEED_VERIFIER", "value": "verifier.demo.svc:50051"}],
            "volumeMounts": [
                {"name": "models", "mountPath": "/models"},
                {"name": "tmp", "mountPath": "/tmp/"},
            ],
        },
        around,
    )
    assert command.argv[1:] == (
        "--model",
        "file:///home/me/models/target",
        "--other",
        "/modelsx",
        "/tmp/x",
    )
    assert command.environment["TMPDIR"] == "/home/me/tmp"
    assert command.environment["GOODSPEED_VERIFIER"] == "127.0.9.3:50051"


def test_a_secret_is_taken_from_where_the_user_has_it():
    entry = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hugging-face", "key": "token"}}}
    around = Surroundings("127.0.9.2", base={"HF_TOKEN": "mine"})
    assert resolved({"env": [entry]}, around).environment["HF_TOKEN"] == "mine"
    with pytest.raises(ContainerError, match="Secret hugging-face is not there; export HF_TOKEN"):
        resolved({"env": [entry]})
    entry["valueFrom"]["secretKeyRef"]["optional"] = True
    assert "HF_TOKEN" not in resolved({"env": [entry]}).environment


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"command": []}, "pod one-0, container main: set command"),
        ({"envFrom": [{"configMapRef": {"name": "settings"}}]}, "ConfigMap settings is not there"),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.colour"}}}]},
            "fieldRef 'metadata.colour'",
        ),
        ({"readinessProbe": {"httpGet": {"port": "web"}}}, "main, readinessProbe: probe names port 'web'"),
    ],
)
def test_what_cannot_run_here_says_why(container, message):
    with pytest.raises(ContainerError, match=message):
        resolved(container)


def test_probes_know_the_containers_port_names():
    command = resolved(
        {
            "ports": [{"name": "http", "containerPort": 8000}],
            "startupProbe": {"httpGet": {"port": "http"}},
            "livenessProbe": {"grpc": {"port": 5}},
        }
    )
    assert command.startup.action.port == 8000
    assert command.liveness.action.port == 5
    assert command.readiness is None
