"""The slow loop of one cluster: observe, decide, carry out, report; once an interval.

Nothing of it must be kept: what was moved shows in the metrics, and after a
restart the fleet is observed for one interval before anything is decided.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import numpy as np

from goodspeed_operator.api.cluster import GoodSpeedCluster
from goodspeed_operator.api.scalars import seconds
from goodspeed_operator.cluster.orders import carry_out
from goodspeed_operator.cluster.prometheus import PrometheusReader
from goodspeed_operator.cluster.scrape import scrape
from goodspeed_operator.rebalance.observe import Members, Place, limits_of, observe, scalable_pools
from goodspeed_operator.rebalance.report import Report, reported
from goodspeed_operator.rebalance.sample import Sample, Series, UnusableError, between, chosen
from goodspeed_runtime.rebalancing.decide import Outcome, decide
from goodspeed_runtime.rebalancing.decision import Action, Decision
from goodspeed_runtime.rebalancing.earnings import earnings
from goodspeed_runtime.rebalancing.history import History
from goodspeed_runtime.rebalancing.observation import Cells, Drafters, Drafts, Fault, Observation

logger = logging.getLogger(__name__)

SCRAPES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Interval:
    """What one interval came to.

    Attributes:
        report: for status, events and metrics.
        replicas: sizes of pools decided now, to be carried out by whoever runs the pods.
        observation: what was decided on; None where metrics could not be used.
    """

    report: Report
    replicas: dict[str, int] = field(default_factory=dict)
    observation: Observation | None = None


class Rebalancer:
    """The loop's memory and its hands."""

    def __init__(
        self, http: httpx.AsyncClient, clock: Callable[[], float] = time.time, report: Report | None = None
    ) -> None:
        """Binds a loop to the network.

        Args:
            http: for metrics and orders.
            clock: Unix seconds.
            report: the last that was shown, so that decisions survive a restart.
        """
        self._http = http
        self._clock = clock
        self._history = History()
        self._readings: tuple[float, Series] | None = None
        self.report = report or Report()

    async def step(self, cluster: GoodSpeedCluster, members: Members) -> Interval:
        """Observes the interval that has ended, decides, and in mode Auto gives the orders."""
        interval = seconds(cluster.spec.rebalance.interval)
        limits = limits_of(cluster.spec, interval)
        apply = cluster.spec.rebalance.mode == "Auto"
        observation: Observation | None = None
        try:
            sample, window = await self._sample(cluster, members, interval)
            observation = observe(cluster, members, sample, self._clock(), window)
            outcome = await asyncio.to_thread(decide, observation, limits, self._history)
        except UnusableError as error:
            outcome = decide(_unseen(self._clock(), error), limits, self._history)
        self._history = outcome.history
        now, failures = self._clock(), dict[Decision, str]()
        if apply and outcome.changes:
            failures = await carry_out(self._http, members, outcome.changes)
            for decision, words in failures.items():
                logger.warning("%s %s: %s", decision.action.value, decision.subject, words)
            done = [each for each in outcome.changes if each not in failures]
            self._history = self._history.after(done, now, limits.cooldown)
        fault = _fault(outcome)
        sound = observation is not None and fault is None
        self.report = reported(
            self.report,
            outcome,
            list(failures),
            fault=fault,
            seen=earnings(observation) if observation and sound else None,
            fairness=limits.fairness,
            now=now,
            settled=now - 1.99 * interval,
            apply=apply,
        )
        replicas = {
            each.subject: int(each.destination) for each in outcome.changes if each.action is Action.SCALE
        }
        return Interval(self.report, replicas if apply else {}, observation if sound else None)

    async def _sample(
        self, cluster: GoodSpeedCluster, members: Members, interval: float
    ) -> tuple[Sample, float]:
        """The sample and its seconds.

        Raises:
            UnusableError: there is none.
        """
        if members.unsettled:
            self._readings = None
            raise UnusableError(Fault.ROLLING_OUT, members.unsettled)
        if not members.cells:
            raise UnusableError(Fault.MISSING, "no verifier serves")
        server, pools = cluster.spec.rebalance.prometheus, bool(scalable_pools(cluster.spec))
        if server is not None:
            reader = PrometheusReader(self._http, server.url)
            names = [cell.name for cell in members.cells]
            sample = await reader.sample(cluster.name, cluster.namespace, interval, pools=pools, cells=names)
            return sample, interval
        return await self._scraped(members, interval, pools=pools)

    async def _scraped(self, members: Members, interval: float, *, pools: bool) -> tuple[Sample, float]:
        scalable = [each for each in members.drafters if pools and each.pool in members.scalable]
        pods = [*members.cells, *scalable]
        limit = asyncio.Semaphore(SCRAPES_AT_ONCE)

        async def one(pod: Place) -> Series | None:
            async with limit:
                reading = await scrape(self._http, f"{pod.url}/metrics")
            return None if reading is None else chosen(reading)

        now = self._clock()
        readings = await asyncio.gather(*(one(pod) for pod in pods))
        silent = [pod.name for pod, reading in zip(pods, readings, strict=True) if reading is None]
        if silent:
            self._readings = None
            raise UnusableError(Fault.MISSING, f"no metrics from {', '.join(silent[:5])}")
        after = {key: value for reading in readings if reading for key, value in reading.items()}
        before, self._readings = self._readings, (now, after)
        if before is None:
            raise UnusableError(Fault.OBSERVING, "one reading so far; the next gives rates")
        passed = now - before[0]
        if not 0.5 * interval <= passed <= 3 * interval:
            raise UnusableError(Fault.STALE, f"the last reading was {passed:.0f} s ago by this clock")
        _check_cells(before[1], after, members)
        return between(before[1], after, passed), passed


def _check_cells(before: Series, after: Series, members: Members) -> None:
    """A cell that was not read before has no rates yet; its counters are of all its life."""
    for cell in members.cells:
        key = ("goodspeed_verifier_budget_tokens", frozenset({("cell", cell.name)}))
        if key in after and key not in before:
            raise UnusableError(Fault.OBSERVING, f"one reading of {cell.name} so far; the next gives rates")


def _fault(outcome: Outcome) -> Fault | None:
    (first, *_) = outcome.decisions
    return Fault(first.reason.value) if first.reason.value in {fault.value for fault in Fault} else None


def _unseen(now: float, error: UnusableError) -> Observation:
    nothing, none = np.zeros(0), np.zeros(0, np.int64)
    cells = Cells((), nothing, none, none, (), np.zeros(0, np.bool_), nothing, nothing)
    drafts = Drafts(nothing, nothing, nothing, nothing)
    drafters = Drafters((), none, none, nothing, nothing, nothing, nothing, none, nothing, nothing, drafts)
    return Observation(now, cells, drafters, fault=error.fault, words=str(error))
