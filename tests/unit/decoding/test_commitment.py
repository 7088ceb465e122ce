"""What a verdict commits is the shortest text that ends where a plain decoder would have ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodspeed_runtime.decoding.commitment import commit


@given(
    drafted=st.lists(st.integers(0, 4), max_size=6),
    data=st.data(),
    next_token=st.integers(0, 4),
    stop_tokens=st.sets(st.integers(0, 4), max_size=2),
    room=st.integers(1, 9),
)
def test_a_verdict_ends_where_decoding_token_by_token_would_end(drafted, data, next_token, stop_tokens, room):
    accepted = data.draw(st.integers(0, len(drafted)))
    text, finish = [], None
    for token in [*drafted[:accepted], next_token]:
        text.append(token)
        finish = "stop" if token in stop_tokens else "length" if len(text) == room else None
        if finish:
            break
    got = commit(drafted, accepted, next_token, stop_tokens=stop_tokens, room=room)
    assert drafted[: got.accepted] + [next_token] * (got.next_token is not None) == text
    assert (got.count, got.finish) == (len(text), finish)


def test_a_sequence_without_room_is_not_asked():
    with pytest.raises(ValueError, match="no room"):
        commit([], 0, 1, stop_tokens=(), room=0)
