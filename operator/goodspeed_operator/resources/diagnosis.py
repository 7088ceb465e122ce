"""Why a pod does not run, in its own words.

What Kubernetes knows of a failure is scattered over a pod's conditions, its
containers' states and the last lines of a log. A person should find it in one
condition of the cluster, with a reason of a closed set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from goodspeed_operator.api.status import Reason

LONGEST_WORDS = 600

_IMAGE = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_FRAME = " \t╭╮╰╯│─"
"""Command lines draw a box around what was wrong with an option."""
_MISMATCH = ("refused by verifier", "vocabulary of", "was made for an embedding of")
_EXCEPTION = re.compile(r"[\w.]+(Error|Exception)(: .*)?")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with one pod, or with another object of the fleet.

    Attributes:
        name: the object's.
        reason: of a closed set.
        words: Kubernetes' or the server's own.
        kind: of the object.
    """

    name: str
    reason: Reason
    words: str
    kind: str = "pod"

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.words}"


def diagnose(name: str, status: Mapping[str, Any]) -> Trouble | None:
    """What is wrong with a pod, by its status; None when nothing is, or nothing yet."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Trouble(name, Reason.UNSCHEDULABLE, condition.get("message") or "no node fits")
    if status.get("phase") == "Failed" and status.get("reason"):
        return Trouble(name, Reason.EVICTED, short(f"{status['reason']}: {status.get('message', '')}"))
    containers = [
        *((True, found) for found in status.get("initContainerStatuses") or ()),
        *((False, found) for found in status.get("containerStatuses") or ()),
    ]
    for fetches, container in containers:
        trouble = _container(name, container, fetches=fetches)
        if trouble is not None:
            return trouble
    return None


def _container(pod: str, status: Mapping[str, Any], *, fetches: bool) -> Trouble | None:
    state = status.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE:
        return Trouble(
            pod, Reason.IMAGE_PULL_FAILED, short(message or f"{reason}: {status.get('image', '')}")
        )
    if reason in _CONFIG:
        return Trouble(pod, Reason.CONFIG_INVALID, short(message or reason))
    ended = state.get("terminated") or (status.get("lastState") or {}).get("terminated")
    failed = ended and ended.get("exitCode", 0) != 0
    if not failed or status.get("ready") or (state.get("running") and not status.get("restartCount")):
        return None
    assert ended is not None
    words = _last_words(ended.get("message") or "") or f"exit code {ended['exitCode']}"
    if ended.get("reason") == "OOMKilled":
        return Trouble(pod, Reason.OUT_OF_MEMORY, "ran out of memory; raise resources.limits.memory")
    if fetches:
        return Trouble(pod, Reason.MODEL_NOT_FOUND, words)
    if any(sign in words for sign in _MISMATCH):
        return Trouble(pod, Reason.MODEL_MISMATCH, words)
    return Trouble(pod, Reason.CRASH_LOOP, words)


def diagnose_event(kind: str, name: str, reason: str, message: str) -> Trouble | None:
    """What a warning event says is wrong with an object; None when there was no event."""
    if not reason:
        return None
    if "Mount" in reason or "Volume" in reason:
        found = Reason.VOLUME_UNAVAILABLE
    elif reason == "FailedCreate":
        found = Reason.POD_REFUSED
    else:
        found = Reason.CONFIG_INVALID
    return Trouble(name, found, short(f"{reason}: {message}"), kind)


def diagnose_deployment(name: str, status: Mapping[str, Any]) -> Trouble | None:
    """What a Deployment says is wrong with making its pods."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return Trouble(
                name, Reason.POD_REFUSED, short(condition.get("message") or "pods refused"), "Deployment"
            )
    return None


def _last_words(log: str) -> str:
    """The end of a log: the last message when lines are JSON, the exception, else the last lines."""
    lines = [plain for line in log.splitlines() if (plain := line.strip(_FRAME))]
    if not lines:
        return ""
    try:
        found = json.loads(lines[-1])
        return short(str(found["message"]) + _last_line(str(found.get("exception", ""))))
    except (ValueError, KeyError, TypeError):
        whole = lines[-1:] if _EXCEPTION.fullmatch(lines[-1]) else lines[-3:]
        return short(" / ".join(whole))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def short(text: str) -> str:
    """On one line, and cut where a condition would be too long."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_WORDS else f"{text[: LONGEST_WORDS - 1]}…"
