"""Stop words in a text that arrives in pieces."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from generator.gateway.stops import Stops

LETTERS = st.text("ab\n", max_size=12)


def cut(words: list[str], pieces: list[str]) -> tuple[str, bool]:
    stops = Stops(words)
    text = "".join(stops.push(piece) for piece in pieces)
    return text + stops.finish(), stops.hit


@given(LETTERS, st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 12)))
def test_the_text_ends_before_the_word_that_is_complete_first(text: str, words: list[str], breaks: list[int]) -> None:
    """However the text is broken into pieces."""
    places = sorted({0, len(text), *(place for place in breaks if place < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(word) for word in words)]
    wanted = (text, False)
    if ends:
        longest = max(len(word) for word in words if text[: ends[0]].endswith(word))
        wanted = (text[: ends[0] - longest], True)
    assert cut(words, pieces) == wanted


def test_only_what_may_become_a_word_is_held_back() -> None:
    stops = Stops(["\n\nUSER"])
    assert [stops.push(piece) for piece in ("one\n", "two\n\nUS", "A", "\n\nUSER: x", "y")] == [
        "one",
        "\ntwo",
        "\n\nUSA",
        "",
        "",
    ]
    assert stops.hit and stops.finish() == ""
