"""What travels between drafter and verifier: packed bytes, the same on both ends, checked when read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.protocol import wire
from goodspeed_runtime.protocol.wire import DraftBlock, WireError

ids = st.integers(0, wire.TOKEN_LIMIT - 1)


@st.composite
def drafts(draw: st.DrawFn) -> DraftBlock:
    tokens, sizes, support, weights = [], [], [], []
    for _ in range(draw(st.integers(0, 6))):
        names = draw(st.lists(ids, max_size=5, unique=True))
        tokens.append(draw(st.sampled_from(names)) if names else draw(ids))
        sizes.append(len(names))
        support += names
        weights += draw(st.lists(st.integers(1, 65535), min_size=len(names), max_size=len(names)))
    return DraftBlock(*(np.array(column, dtype=np.int32) for column in (tokens, sizes, support, weights)))


@given(st.lists(ids))
def test_tokens_arrive_as_they_were_sent_in_three_bytes_each(tokens: list[int]) -> None:
    packed = wire.pack_tokens(tokens)
    assert len(packed) == 3 * len(tokens)
    assert wire.unpack_tokens(packed).tolist() == tokens


def test_the_least_significant_byte_comes_first() -> None:
    assert wire.pack_tokens([0x010203]) == b"\x03\x02\x01"


@given(drafts())
def test_a_draft_arrives_as_it_was_sent(block: DraftBlock) -> None:
    arrived = wire.unpack_draft(*wire.pack_draft(block))
    for name in ("tokens", "support_sizes", "support_ids", "support_weights"):
        assert getattr(arrived, name).tolist() == getattr(block, name).tolist()
        assert getattr(arrived, name).dtype == np.int32


@given(st.binary(max_size=40), st.binary(max_size=20), st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_are_a_draft_or_a_wire_error(
    tokens: bytes, sizes: bytes, support: bytes, weights: bytes
) -> None:
    try:
        block = wire.unpack_draft(tokens, sizes, support, weights)
    except WireError:
        return
    assert block.support_sizes.sum() == len(block.support_ids) == len(block.support_weights)
    assert (block.support_weights > 0).all()


def test_a_draft_of_point_masses_carries_tokens_alone() -> None:
    tokens, *distributions = wire.pack_draft(DraftBlock.point_masses([7, 8]))
    assert len(tokens) == 6
    assert distributions == [b"", b"", b""]


def test_an_id_over_24_bits_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="16777216 does not fit 24 bits"):
        wire.pack_tokens([1 << 24])


def u2(*values: int) -> bytes:
    return np.array(values, dtype="<u2").tobytes()


@pytest.mark.parametrize(
    ("sizes", "support", "weights", "why"),
    [
        (u2(1, 1), [5], u2(1), "needs 2"),
        (u2(2), [5], u2(1), "adds up to 2"),
        (u2(1), [5], u2(1, 1), "support_weights 4 bytes"),
        (u2(5000), list(range(5000)), u2(*[1] * 5000), "over the limit of 4096"),
        (u2(2), [5, 6], u2(1, 0), "holds a zero"),
        (u2(2), [5, 5], u2(1, 1), "the same id twice"),
        (u2(1), [6], u2(1), "outside its own support"),
    ],
)
def test_a_distribution_that_cannot_be_one_is_refused(
    sizes: bytes, support: list[int], weights: bytes, why: str
) -> None:
    with pytest.raises(WireError, match=why):
        wire.unpack_draft(wire.pack_tokens([5]), sizes, wire.pack_tokens(support), weights)


def test_bytes_that_end_within_a_token_are_refused() -> None:
    with pytest.raises(WireError, match="4 bytes of tokens are no multiple of 3"):
        wire.unpack_tokens(b"\0\0\0\0")
