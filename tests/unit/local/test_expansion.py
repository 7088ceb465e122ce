from manifests import service, workload

from goodspeed_operator.local.expansion import expand

CONTAINER = {"name": "main", "command": ["true"]}


def test_a_stateful_set_and_a_deployment_become_pods_with_ordinals():
    pods = expand(
        [
            workload("StatefulSet", "verifier", 2, CONTAINER, serviceName="verifier"),
            service("verifier", "verifier"),
            workload("Deployment", "lookup", None, CONTAINER),
        ]
    )
    assert [pod["metadata"]["name"] for pod in pods] == ["verifier-0", "verifier-1", "lookup-0"]
    assert {pod["metadata"]["namespace"] for pod in pods} == {"demo"}


def test_zero_replicas_are_no_pods():
    assert expand([workload("Deployment", "lookup", 0, CONTAINER)]) == []


def test_pods_of_a_stateful_set_have_what_its_controller_sets():
    manifest = workload(
        "StatefulSet",
        "verifier",
        1,
        CONTAINER,
        serviceName="cells",
        ordinals={"start": 3},
        volumeClaimTemplates=[{"metadata": {"name": "cache"}}],
    )
    (pod,) = expand([manifest])
    assert pod["spec"]["hostname"] == "verifier-3"
    assert pod["spec"]["subdomain"] == "cells"
    assert pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "3"
    assert pod["spec"]["volumes"] == [
        {"name": "cache", "persistentVolumeClaim": {"claimName": "cache-verifier-3"}}
    ]


def test_pods_share_nothing_with_the_template_or_each_other():
    manifest = workload("Deployment", "lookup", 2, CONTAINER)
    first, second = expand([manifest])
    first["spec"]["containers"][0]["command"].append("changed")
    first["metadata"]["labels"]["changed"] = "yes"
    assert second["spec"]["containers"][0]["command"] == ["true"]
    assert "changed" not in manifest["spec"]["template"]["metadata"]["labels"]
