"""What a pod's status says becomes one reason of a closed set, and the pod's own words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodspeed_operator.api.status import Reason
from goodspeed_operator.resources.diagnosis import (
    LONGEST_WORDS,
    diagnose,
    diagnose_deployment,
    diagnose_event,
)

BOX = """
Usage: goodspeed-verifier [OPTIONS]
Try 'goodspeed-verifier --help' for help.
╭─ Error ──────────────────────────────────╮
│ Invalid value for '--budget-tokens':     │
│ Input should be greater than 0           │
╰──────────────────────────────────────────╯
"""


def container(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "verifier", "image": "example.org/runtime:1", "ready": False, "state": state, **more}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "message": message, "reason": reason}}


def pod(*containers: dict[str, Any], fetching: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "phase": "Running",
        "containerStatuses": list(containers),
        "initContainerStatuses": list(fetching),
    }


JSON_LOG = '{"message": "starting"}\n' + json.dumps(
    {"message": "cannot load model", "exception": "Traceback\nValueError: no such layer"}
)
CASES: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "an image that cannot be pulled": (
        pod(container(waiting("ImagePullBackOff", "pull access denied for example.org/runtime"))),
        Reason.IMAGE_PULL_FAILED,
        "pull access denied for example.org/runtime",
    ),
    "an image of which nothing more is known": (
        pod(container(waiting("ErrImagePull"))),
        Reason.IMAGE_PULL_FAILED,
        "ErrImagePull: example.org/runtime:1",
    ),
    "a secret that is missing": (
        pod(container(waiting("CreateContainerConfigError", 'secret "token" not found'))),
        Reason.CONFIG_INVALID,
        'secret "token" not found',
    ),
    "a model that cannot be fetched": (
        pod(fetching=(container(ended(1, "error: hf://org/none: not found\n")),)),
        Reason.MODEL_NOT_FOUND,
        "error: hf://org/none: not found",
    ),
    "memory that does not suffice": (
        pod(container(waiting("CrashLoopBackOff"), lastState=ended(137, "", "OOMKilled"), restartCount=1)),
        Reason.OUT_OF_MEMORY,
        "ran out of memory; raise resources.limits.memory",
    ),
    "a drafter of another vocabulary": (
        pod(container(ended(1, "refused by verifier a-0: vocabulary of 259 is not 256"), restartCount=0)),
        Reason.MODEL_MISMATCH,
        "vocabulary of 259 is not 256",
    ),
    "a server that fails, in JSON": (
        pod(container(waiting("CrashLoopBackOff"), lastState=ended(1, JSON_LOG), restartCount=2)),
        Reason.CRASH_LOOP,
        "cannot load model: ValueError: no such layer",
    ),
    "a server that does not like an option": (
        pod(container(waiting("CrashLoopBackOff"), lastState=ended(2, BOX), restartCount=2)),
        Reason.CRASH_LOOP,
        "Invalid value for '--budget-tokens': / Input should be greater than 0",
    ),
    "a server that fails with a traceback": (
        pod(container(ended(1, "│ value = weights[name]  │\n╰───╯\nSafetensorError: header too large\n"))),
        Reason.CRASH_LOOP,
        "SafetensorError: header too large",
    ),
    "a drafter that was made for another target": (
        pod(
            container(
                ended(1, '{"message": "one was made for an embedding of 9 x 4, the target\'s is 3 x 4"}')
            )
        ),
        Reason.MODEL_MISMATCH,
        "one was made for an embedding of 9 x 4",
    ),
    "a server that says nothing": (
        pod(container(ended(3), restartCount=1)),
        Reason.CRASH_LOOP,
        "exit code 3",
    ),
    "a pod that no node has room for": (
        {
            "phase": "Pending",
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                }
            ],
        },
        Reason.UNSCHEDULABLE,
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    ),
    "a pod that its node has put out": (
        {
            "phase": "Failed",
            "reason": "Evicted",
            "message": "Usage of EmptyDir volume cache exceeds the limit",
        },
        Reason.EVICTED,
        "Evicted: Usage of EmptyDir volume cache exceeds the limit",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_pod_that_does_not_run_says_why(case: str) -> None:
    status, reason, words = CASES[case]
    trouble = diagnose("a-0", status)
    assert trouble is not None
    assert trouble.reason is reason
    assert words in trouble.words
    assert str(trouble).startswith("pod a-0: ")


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"phase": "Pending"},
        pod(container(waiting("ContainerCreating"))),
        pod(container(waiting("PodInitializing"), restartCount=0)),
        pod(container({"running": {}}, restartCount=0)),
        pod(container({"running": {}}, ready=True, restartCount=3, lastState=ended(1, "earlier"))),
        pod(fetching=(container(ended(0), restartCount=0),)),
    ],
)
def test_nothing_is_wrong_with_a_pod_that_starts_or_has_recovered(status: dict[str, Any]) -> None:
    assert diagnose("a-0", status) is None


@given(log=st.text(max_size=5000))
@settings(max_examples=100, deadline=None)
def test_whatever_a_server_logs_fits_on_one_line_of_a_condition(log: str) -> None:
    trouble = diagnose("a-0", pod(container(ended(1, log), restartCount=1)))
    assert trouble is not None
    assert "\n" not in trouble.words
    assert 0 < len(trouble.words) <= LONGEST_WORDS


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("FailedMount", Reason.VOLUME_UNAVAILABLE),
        ("FailedAttachVolume", Reason.VOLUME_UNAVAILABLE),
        ("FailedCreate", Reason.POD_REFUSED),
        ("FailedCreatePodSandBox", Reason.CONFIG_INVALID),
    ],
)
def test_what_only_an_event_says(reason: str, expected: Reason) -> None:
    trouble = diagnose_event("StatefulSet", "a", reason, "quota exceeded")
    assert trouble is not None
    assert (trouble.reason, str(trouble)) == (expected, f"StatefulSet a: {reason}: quota exceeded")
    assert diagnose_event("pod", "a-0", "", "") is None


def test_a_deployment_that_may_not_make_its_pods() -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods"}
    trouble = diagnose_deployment("a-one", {"conditions": [failure]})
    assert trouble is not None
    assert trouble.reason is Reason.POD_REFUSED
    assert diagnose_deployment("a-one", {"conditions": [{**failure, "status": "False"}]}) is None
