"""Reads a fleet's sample from a Prometheus-compatible server, by PromQL over its HTTP API."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from goodspeed_operator.rebalance.sample import (
    GAUGES,
    POOL_GAUGES,
    RATES,
    TOTALS,
    Labels,
    Sample,
    UnusableError,
    ours,
)
from goodspeed_runtime.rebalancing.observation import Fault

QUERY_SECONDS = 5.0
LARGEST_ANSWER_BYTES = 32 << 20
QUERIES_AT_ONCE = 8
LEAST_STALE_SECONDS = 15.0
CLOCK_SECONDS = 30.0
_AGES = "goodspeed_verifier_budget_tokens"

Vector = list[tuple[Mapping[str, str], float]]


def selector(cluster: str, namespace: str) -> str:
    """Chooses a cluster's series, whether or not the scraper adds a namespace."""
    return f'{{cluster="{cluster}",namespace=~"|{namespace}"}}'


class PrometheusReader:
    """One server."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        """Binds to a server by its base URL."""
        self._http = http
        self._url = url.rstrip("/")
        self._limit = asyncio.Semaphore(QUERIES_AT_ONCE)

    async def sample(
        self, cluster: str, namespace: str, window: float, *, pools: bool, cells: Iterable[str]
    ) -> Sample:
        """The fleet's metrics over the last ``window`` seconds.

        Args:
            cluster: its name.
            namespace: of the cluster.
            window: seconds; at least two scrapes must lie in it.
            pools: whether the drafters' own metrics are wanted too.
            cells: verifiers whose figures must be fresh.

        Raises:
            UnusableError: the server cannot be asked, errs, or knows nothing fresh about the fleet.
        """
        chosen = selector(cluster, namespace)
        gauges = (*GAUGES, *POOL_GAUGES) if pools else GAUGES
        texts = {
            "ages": f"time() - timestamp({_AGES}{chosen})",
            **{name: f"{name}{chosen}" for name in gauges},
            **{f"{name} since its beginning": f"{name}{chosen}" for name in TOTALS},
            **{name: f"rate({name}{chosen}[{max(1, round(window))}s])" for name in RATES},
        }
        async with asyncio.TaskGroup() as tasks:
            asked = {name: tasks.create_task(self._ask(text)) for name, text in texts.items()}
        found = {name: task.result() for name, task in asked.items()}
        vectors: dict[str, Vector] = {}
        for name, vector in found.items():
            if isinstance(vector, UnusableError):
                raise vector
            vectors[name] = vector
        _check_ages(vectors["ages"], cells, window)
        totals = {name: vectors[f"{name} since its beginning"] for name in TOTALS}
        return Sample(_by_labels(vectors, RATES), _by_labels(vectors, gauges), _by_labels(totals, TOTALS))

    async def _ask(self, query: str) -> Vector | UnusableError:
        """The answer, or what is wrong with it: one failure must not cancel the others without its words."""
        try:
            async with self._limit, asyncio.timeout(QUERY_SECONDS):
                response = await self._http.post(
                    f"{self._url}/api/v1/query", data={"query": query}, timeout=QUERY_SECONDS
                )
            if len(response.content) > LARGEST_ANSWER_BYTES:
                return _trouble(f"an answer of {len(response.content) >> 20} MiB")
            return _vector(response)
        except (TimeoutError, httpx.TimeoutException):
            return _trouble(f"no answer within {QUERY_SECONDS:g} s")
        except httpx.HTTPError as error:
            return _trouble(str(error) or type(error).__name__)
        except (ValueError, TypeError, KeyError, AttributeError):
            return _trouble("an answer that is not Prometheus'")


def _trouble(words: str) -> UnusableError:
    return UnusableError(Fault.PROMETHEUS, f"Prometheus: {words}")


def _vector(response: httpx.Response) -> Vector | UnusableError:
    """An instant vector; values that are not finite are left out.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is none.
    """
    body: dict[str, Any] = response.json()
    if body["status"] != "success":
        return _trouble(f"{response.status_code} {body.get('errorType', '')}: {body.get('error', '')}")
    if body.get("warnings"):
        # A federation that lacks some of its parts says so here, and answers with the rest.
        return _trouble(f"a partial answer: {body['warnings'][0]}")
    if body["data"]["resultType"] != "vector":
        return _trouble(f"a {body['data']['resultType']} in place of a vector")
    result: Vector = []
    for each in body["data"]["result"]:
        labels = {str(name): str(value) for name, value in each["metric"].items()}
        value = float(each["value"][1])
        if math.isfinite(value):
            result.append((labels, value))
    return result


def _check_ages(ages: Vector, cells: Iterable[str], window: float) -> None:
    """Raises UnusableError where a cell has no figures, or has old ones."""
    youngest: dict[str, float] = {}
    for labels, age in ages:
        cell = labels.get("cell", "")
        youngest[cell] = min(age, youngest.get(cell, math.inf))
    missing = [cell for cell in sorted(cells) if cell not in youngest]
    if missing:
        raise UnusableError(Fault.MISSING, f"Prometheus knows nothing of {', '.join(missing[:5])}")
    for cell in sorted(cells):
        if youngest[cell] > max(1.5 * window, LEAST_STALE_SECONDS):
            raise UnusableError(Fault.STALE, f"the figures of {cell} are {youngest[cell]:.0f} s old")
        if youngest[cell] < -CLOCK_SECONDS:
            raise UnusableError(
                Fault.STALE, f"the figures of {cell} are {-youngest[cell]:.0f} s ahead of Prometheus' clock"
            )


def _by_labels(vectors: Mapping[str, Vector], names: Iterable[str]) -> dict[tuple[str, Labels], float]:
    """Series by our labels; two scrapers of one pod give the same series twice."""
    result: dict[tuple[str, Labels], float] = {}
    for name in names:
        for labels, value in vectors[name]:
            key = (name, ours(labels))
            result[key] = max(value, result.get(key, -math.inf))
    return result
