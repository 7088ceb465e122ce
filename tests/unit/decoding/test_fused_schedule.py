"""Every token of a ragged batch is attended once, over the chunks that it sees, and written once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.decoding.fused.schedule import NUMBERS, TILE, Capacity, describe, lay_out
from goodspeed_runtime.decoding.round import Segment

CAPACITY = Capacity(tokens=120, rows=60, segments=6, max_context=1500)


def laid_out(segments, padded):
    columns = views(CAPACITY.derived())
    return lay_out(segments, CAPACITY, padded, columns), columns


def views(places):
    table = np.full(max(place.stop for place in places.values()), 77, dtype=np.int32)
    return {name: table[place] for name, place in places.items()}


@st.composite
def batches(draw):
    segments, tokens, rows = [], CAPACITY.tokens, CAPACITY.rows
    for slot in draw(st.permutations(range(CAPACITY.segments))):
        count = draw(st.integers(0, min(tokens, 50)))
        if count:
            wanted = draw(st.integers(0, min(rows, count)))
            start = draw(st.integers(0, CAPACITY.max_context - count))
            segments.append(Segment(slot, start, list(range(100, 100 + count)), wanted))
            tokens, rows = tokens - count, rows - wanted
    return segments or [Segment(0, 0, [1], 1)]


@given(batches())
def test_each_token_meets_exactly_the_chunks_up_to_its_own_position(segments):
    total = sum(len(s.tokens) for s in segments)
    padded = min(total + 5, CAPACITY.tokens)
    rows, c = laid_out(segments, padded)
    packed = [(s, offset) for s in segments for offset in range(len(s.tokens))]
    for token, (segment, offset) in enumerate(packed):
        position = segment.start + offset
        assert c["positions"][token] == position
        assert c["rows"][token] == segment.slot * CAPACITY.max_context + position
        mine = slice(c["token_pair"][token], c["token_pair"][token] + c["token_splits"][token])
        (tile,) = set(c["pair_tile"][mine])
        assert c["pair_split"][mine].tolist() == list(range(c["token_splits"][token]))
        assert position < c["token_splits"][token] * CAPACITY.chunk
        assert c["tile_slot"][tile] == segment.slot
        line = c["token_line"][token]
        assert c["tile_token"][tile] + line == token
        assert c["tile_position"][tile] + line == position
        assert line < c["tile_count"][tile] <= TILE
    assert c["pairs"][0] == sum(
        -(-(segment.start + min(first + TILE, len(segment.tokens))) // CAPACITY.chunk)
        for segment in segments
        for first in range(0, len(segment.tokens), TILE)
    )
    assert (c["rows"][total:padded] == -1).all()
    assert (c["token_splits"][total:padded] == 0).all()
    ends = np.cumsum([len(s.tokens) for s in segments])
    wanted = [np.arange(end - s.logit_rows, end) for end, s in zip(ends, segments, strict=True)]
    assert c["logit_rows"][:rows].tolist() == np.concatenate(wanted).tolist()


@given(batches())
def test_no_batch_needs_more_tiles_or_pairs_than_the_capacity_says(segments):
    _, c = laid_out(segments, CAPACITY.tokens)
    assert c["pairs"][0] <= CAPACITY.pairs
    assert max(c["pair_tile"][: c["pairs"][0]]) < CAPACITY.tiles


@given(batches())
def test_four_numbers_a_segment_and_the_tokens_travel(segments):
    columns, ids = views(CAPACITY.sent()), np.concatenate([s.tokens for s in segments])
    padded = min(ids.size + 5, CAPACITY.tokens)
    describe(segments, ids, padded, columns)
    numbers = columns["segments"].reshape(-1, NUMBERS)
    assert numbers[: len(segments)].tolist() == [
        [len(s.tokens), s.start, s.slot, s.logit_rows] for s in segments
    ]
    assert not numbers[len(segments) :].any()
    assert columns["token_ids"][:padded].tolist() == ids.tolist() + [0] * (padded - ids.size)
