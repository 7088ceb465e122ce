"""A pod's status as a kubelet reports it, out of what runs here.

Pure: from the manifest, what the runner knows and the status before to the
status now. One runner phase stands for all containers of a pod, since pods
here have one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from goodspeed_operator.local.expansion import Manifest
from goodspeed_operator.local.pod_status import Phase, PodStatus

LONGEST_MESSAGE = 2048
"""Bytes of a log that a kubelet keeps as the termination message."""

_RUNNING = {Phase.STARTING, Phase.READY, Phase.UNREADY}


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a container cannot even begin: a kubelet's reason and words."""

    reason: str
    message: str


def report(
    pod: Manifest,
    local: PodStatus | None,
    blocked: Blocked | None,
    words: Callable[[str], str],
    now: str,
) -> dict[str, Any]:
    """The status of a pod.

    Args:
        pod: as the API server holds it, its last status included.
        local: what runs; None before anything does.
        blocked: why nothing can run.
        words: the end of a container's log.
        now: time, RFC 3339.
    """
    spec, before = pod["spec"], pod.get("status") or {}
    phase = _phase(local)
    initialised = local is not None and local.initialised
    ready = local is not None and local.ready
    status: dict[str, Any] = {
        "phase": phase,
        "hostIP": "127.0.0.1",
        "startTime": before.get("startTime", now),
        "conditions": [
            _condition(before, kind, holds, now)
            for kind, holds in (
                ("Initialized", initialised),
                ("ContainersReady", ready),
                ("Ready", ready),
            )
        ],
        "containerStatuses": [
            _main(container, local, blocked, words, before, now) for container in spec["containers"]
        ],
    }
    if spec.get("initContainers"):
        status["initContainerStatuses"] = [
            _initial(container, local, blocked, words, now) for container in spec["initContainers"]
        ]
    if local is not None:
        status |= {"podIP": local.address, "podIPs": [{"ip": local.address}]}
    return status


def _phase(local: PodStatus | None) -> str:
    if local is None or not local.initialised:
        return "Pending"
    if local.phase is Phase.ENDED:
        return "Failed" if any(local.exits.values()) else "Succeeded"
    return "Running"


def _condition(before: Mapping[str, Any], kind: str, holds: bool, now: str) -> dict[str, str]:
    status = "True" if holds else "False"
    was: Mapping[str, str] = next(
        (found for found in before.get("conditions") or () if found["type"] == kind), {}
    )
    since = was.get("lastTransitionTime", now) if was.get("status") == status else now
    return {"type": kind, "status": status, "lastTransitionTime": since}


def _head(container: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": container["name"], "image": container["image"], "imageID": container["image"]}


def _main(
    container: Mapping[str, Any],
    local: PodStatus | None,
    blocked: Blocked | None,
    words: Callable[[str], str],
    before: Mapping[str, Any],
    now: str,
) -> dict[str, Any]:
    head = {**_head(container), "ready": False, "started": False, "restartCount": 0}
    waiting = Blocked("PodInitializing", "")
    if local is None:
        return {**head, "state": _waiting(blocked or waiting)}
    if not local.initialised:
        return {**head, "state": _waiting(waiting)}
    result = {
        **head,
        "ready": local.ready,
        "started": local.phase in {Phase.READY, Phase.UNREADY},
        "restartCount": local.restarts,
    }
    code = local.exits.get(container["name"])
    end = None if code is None else _terminated(container, code, words, now)
    if local.phase in _RUNNING:
        old: Mapping[str, Any] = next(
            (s for s in before.get("containerStatuses") or () if s["name"] == container["name"]), {}
        )
        same = old.get("restartCount") == local.restarts and (old.get("state") or {}).get("running")
        result["state"] = {"running": same or {"startedAt": now}}
    elif local.phase in {Phase.ENDED, Phase.STOPPED} and end:
        return {**result, "state": end}
    else:
        result["state"] = _waiting(
            Blocked("CrashLoopBackOff", f"back-off restarting failed container {container['name']}")
        )
    if end and local.restarts:
        result["lastState"] = end
    return result


def _initial(
    container: Mapping[str, Any],
    local: PodStatus | None,
    blocked: Blocked | None,
    words: Callable[[str], str],
    now: str,
) -> dict[str, Any]:
    head = {**_head(container), "ready": False, "restartCount": 0}
    if local is None:
        return {**head, "state": _waiting(blocked or Blocked("PodInitializing", ""))}
    if local.initialised:
        return {**head, "ready": True, "state": _terminated(container, 0, words, now)}
    code = local.exits.get(container["name"])
    if code is None:
        return {**head, "state": {"running": {"startedAt": now}}}
    end = _terminated(container, code, words, now)
    backing_off = Blocked("CrashLoopBackOff", f"back-off restarting failed container {container['name']}")
    return {**head, "restartCount": local.crashes, "state": _waiting(backing_off), "lastState": end}


def _waiting(why: Blocked) -> dict[str, Any]:
    return {"waiting": {"reason": why.reason, **({"message": why.message} if why.message else {})}}


def _terminated(
    container: Mapping[str, Any], code: int, words: Callable[[str], str], now: str
) -> dict[str, Any]:
    status = code if code >= 0 else 128 - code
    state = {"exitCode": status, "reason": "Error" if status else "Completed", "finishedAt": now}
    if status and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
        state["message"] = words(container["name"])[-LONGEST_MESSAGE:]
    return {"terminated": state}
