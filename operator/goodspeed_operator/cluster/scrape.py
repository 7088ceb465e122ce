"""Reads a pod's /metrics: the current figures of its cell or drafter.

A reading is a mapping from (metric, labels) to a number. NaN and infinities
are dropped here, so that nothing behind this module meets them. A pod that
answers slowly, wrongly or not at all gives None.
"""

from __future__ import annotations

import math

import httpx
from prometheus_client.parser import text_string_to_metric_families

Reading = dict[tuple[str, frozenset[tuple[str, str]]], float]

SCRAPE_SECONDS = 3.0
LARGEST_SCRAPE_BYTES = 8 << 20


def parse(text: str) -> Reading:
    """Parses the Prometheus text format.

    Raises:
        ValueError: the text is not in that format.
    """
    return {
        (sample.name, frozenset(sample.labels.items())): float(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if math.isfinite(sample.value)
    }


async def scrape(http: httpx.AsyncClient, url: str) -> Reading | None:
    """One pod's reading, or None when it cannot be had."""
    try:
        response = await http.get(url, timeout=SCRAPE_SECONDS)
        response.raise_for_status()
        if len(response.content) > LARGEST_SCRAPE_BYTES:
            return None
        return parse(response.text)
    except (httpx.HTTPError, ValueError):
        return None
