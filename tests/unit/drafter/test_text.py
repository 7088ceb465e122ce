from hypothesis import assume, given
from hypothesis import strategies as st

from goodspeed_runtime.drafter.text import AnswerText, held_back

LETTERS = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=4)


class Chunks:
    """Stands for a detokeniser: token i is the i-th chunk."""

    def __init__(self, chunks):
        self.chunks = chunks

    def push(self, token):
        return self.chunks[token]


def naively_cut(text, stops):
    """The text before the first stop string to be complete; of those, the one that begins first."""
    for end in range(len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return text[: min(begins)], True
    return text, False


@given(LETTERS, STOPS)
def test_letter_by_letter_the_answer_is_cut_where_a_plain_search_cuts_it(text, stops):
    answer = AnswerText(Chunks(text), stops)
    shown = "".join(answer.push(index) for index in range(len(text)))
    cut, stopped = naively_cut(text, stops)
    assert answer.stopped == stopped
    assert (shown if stopped else shown + answer.finish()) == cut


@given(st.lists(st.text("ab", max_size=5), max_size=12), STOPS)
def test_what_has_been_shown_is_never_part_of_a_stop_string(chunks, stops):
    answer = AnswerText(Chunks(chunks), stops)
    shown = ""
    for index in range(len(chunks)):
        shown += answer.push(index)
        assert not any(stop in shown for stop in stops)
    if not answer.stopped:
        assert shown + answer.finish() == "".join(chunks)


@given(LETTERS, STOPS)
def test_nothing_is_held_back_that_no_stop_string_can_begin_with(text, stops):
    assume(not any(stop in text for stop in stops))  # such a text has been cut already
    size = held_back(text, stops)
    assert size == max(
        (
            n
            for n in range(len(text) + 1)
            if any(s.startswith(text[len(text) - n :]) and n < len(s) for s in stops)
        ),
        default=0,
    )


def test_nothing_is_shown_after_a_stop_string():
    answer = AnswerText(Chunks(["one END two", " three"]), ["END"])
    assert answer.push(0) == "one "
    assert answer.push(1) == ""
    assert answer.finish() == ""
