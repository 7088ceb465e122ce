"""What Kubernetes says about an object only in Events.

A StatefulSet whose pods the API server refuses, or a pod whose volume cannot
be mounted, has nothing in its status to show for it. Events are asked for only
about objects that are stuck, and seldom.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from goodspeed_operator.cluster.client import APIError, KubernetesAPI

ASK_AGAIN_SECONDS = 30.0


class WarningEvents:
    """The last warning about an object, remembered for a while."""

    def __init__(self, api: KubernetesAPI, clock: Callable[[], float] = time.monotonic) -> None:
        """Binds to an API; ``clock`` is monotonic seconds."""
        self._api = api
        self._clock = clock
        self._answers: dict[str, tuple[float, tuple[str, str]]] = {}

    async def last(self, namespace: str, uid: str) -> tuple[str, str]:
        """Reason and message of the newest warning about an object; empty when there is none."""
        now = self._clock()
        self._answers = {
            known: answer for known, answer in self._answers.items() if now - answer[0] < ASK_AGAIN_SECONDS
        }
        if uid not in self._answers:
            try:
                self._answers[uid] = (now, await self._ask(namespace, uid))
            except APIError:
                return "", ""
        return self._answers[uid][1]

    async def _ask(self, namespace: str, uid: str) -> tuple[str, str]:
        answer = await self._api.request(
            "GET",
            f"/api/v1/namespaces/{namespace}/events",
            query={"fieldSelector": f"involvedObject.uid={uid},type=Warning", "limit": "50"},
        )
        events = answer.get("items") or ()
        newest = max(events, key=lambda event: event.get("lastTimestamp") or "", default=None)
        return (newest.get("reason", ""), newest.get("message", "")) if newest else ("", "")
