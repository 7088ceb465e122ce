import pytest
from manifests import service, workload

from goodspeed_operator.local.expansion import expand
from goodspeed_operator.local.network import Block, NoAddressError, Resolver, records

CONTAINER = {"name": "main", "command": ["true"]}
FOUND = {"verifier-0.verifier.demo": "127.0.9.2", "verifier.demo": "127.0.9.2", "one.demo": "127.0.9.3"}


def test_names_of_pods_and_services_resolve_as_a_clusters_dns_would():
    pods = expand(
        [
            workload("StatefulSet", "verifier", 2, CONTAINER, serviceName="verifier"),
            workload("Deployment", "one", 1, CONTAINER),
        ]
    )
    addresses = {pod["metadata"]["name"]: f"127.0.9.{index}" for index, pod in enumerate(pods, 2)}
    services = [service("verifier", "verifier"), service("one", "one"), service("one", "one", "elsewhere")]
    assert records(pods, services, addresses) == {
        "verifier.demo": "127.0.9.2",
        "verifier-0.verifier.demo": "127.0.9.2",
        "verifier-1.verifier.demo": "127.0.9.3",
        "one.demo": "127.0.9.4",
    }


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("verifier-0.verifier.demo.svc.cluster.local:50051", "127.0.9.2:50051"),
        ("verifier-0.verifier.demo.svc:50051", "127.0.9.2:50051"),
        ("verifier-0.verifier:50051", "127.0.9.2:50051"),
        ("http://one:8000/v1", "http://127.0.9.3:8000/v1"),
        ("http://one/v1", "http://127.0.9.3/v1"),
        ("one:8000,verifier:1", "127.0.9.3:8000,127.0.9.2:1"),
        ("one", "one"),
        ("verifier", "verifier"),
        ("twenty-one:8000", "twenty-one:8000"),
        ("one.demo.example.org:1", "one.demo.example.org:1"),
        ("builtin://one-layer", "builtin://one-layer"),
        ("hf://org/one:8", "hf://org/one:8"),
        ("one.elsewhere.svc:8000", "one.elsewhere.svc:8000"),
    ],
)
def test_names_are_replaced_where_they_can_only_be_names(text, replaced):
    assert Resolver(FOUND).replace(text, "demo") == replaced


def test_a_short_name_means_the_pods_own_namespace():
    assert Resolver(FOUND).replace("one:8000", "elsewhere") == "one:8000"


def test_without_services_nothing_is_replaced():
    assert Resolver({}).replace("one:8000", "demo") == "one:8000"


def test_two_runners_get_different_addresses_and_give_them_back():
    first, second = Block(), Block()
    try:
        assert first.number != second.number
        assert first.address(0) == f"127.0.{first.number}.2"
        with pytest.raises(NoAddressError, match="at most 253 pods"):
            first.address(253)
    finally:
        first.release()
        second.release()
    again = Block()
    again.release()
    assert again.number == first.number
