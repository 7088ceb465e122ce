"""The device lays a batch out as the NumPy version says."""

import numpy as np
import pytest
import torch

from goodspeed_runtime.decoding.fused.schedule import SPLITS, TILE, Capacity, describe, lay_out
from goodspeed_runtime.decoding.round import Segment

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
SEGMENTS, BLOCK = 6, 16


def views(places):
    table = np.zeros(max(place.stop for place in places.values()), dtype=np.int32)
    return table, {name: table[place] for name, place in places.items()}


def batch(rng, capacity):
    segments, tokens, rows = [], capacity.tokens, capacity.rows
    for slot in rng.permutation(SEGMENTS).tolist():
        count = min(int(rng.choice([0, 1, 5, 8, 9, 60])), tokens)
        if count:
            wanted = int(rng.integers(0, min(count, rows) + 1))
            furthest = capacity.max_context - count
            start = int(
                rng.choice([0, 1, min(511, furthest), min(512, furthest), rng.integers(0, furthest + 1)])
            )
            segments.append(Segment(slot, start, [7] * count, wanted))
            tokens, rows = tokens - count, rows - wanted
    return segments or [Segment(0, 0, [1], 1)]


@pytest.mark.parametrize("max_context", [600, 1500, 9000])
def test_every_column_is_that_of_the_host(max_context):
    from goodspeed_runtime.decoding.fused.layout_kernels import lay_out as on_device

    rng = np.random.default_rng(max_context)
    capacity = Capacity(tokens=200, rows=100, segments=SEGMENTS, max_context=max_context)
    for _ in range(100):
        segments = batch(rng, capacity)
        total = sum(len(s.tokens) for s in segments)
        padded = min(total + 5, capacity.tokens)
        sent, columns = views(capacity.sent())
        describe(segments, np.full(total, 7), padded, columns)
        _, expected = views(capacity.derived())
        rows = lay_out(segments, capacity, padded, expected)
        derived = {
            name: torch.full((column.size,), -77, dtype=torch.int32, device="cuda")
            for name, column in expected.items()
        }
        on_device[(-(-padded // BLOCK),)](
            torch.from_numpy(sent).cuda(),
            *derived.values(),
            padded,
            capacity.tiles,
            capacity.rows,
            capacity.max_context,
            SEGMENTS,
            8,
            TILE,
            capacity.chunk,
            SPLITS,
            BLOCK,
        )
        pairs = int(expected["pairs"][0])
        tiles = sum(-(-len(s.tokens) // TILE) for s in segments)
        used = {"pair": pairs, "tile": tiles, "logi": rows, "pairs": 1}
        for name, column in derived.items():
            count = used.get(name, used.get(name[:4], padded))
            assert column.cpu().numpy()[:count].tolist() == expected[name][:count].tolist(), (name, segments)
