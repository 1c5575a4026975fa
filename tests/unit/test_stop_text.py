"""Texts end before stop strings, whole and in pieces."""

from __future__ import annotations

import random

import pytest
from detokenize import Detokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from stop_text import Stopping, cut
from tokenizers_text import TokenizersText

from tests.unit import serving

TOKENIZER = TokenizersText(serving.tokenizer())
few = st.text("ab🙂", max_size=4)


def truth(text: str, words: list[str]) -> str:
    """Read one character after the other: the first word that the text ends with, the longest of several, ends it."""
    for end in range(1, len(text) + 1):
        hits = [word for word in words if word and text[:end].endswith(word)]
        if hits:
            return text[: end - max(map(len, hits))]
    return text


def in_pieces(pieces: list[str], words: list[str]) -> list[str]:
    stopping = Stopping(words)
    return [stopping.push(piece, final=False) for piece in pieces] + [stopping.push("", final=True)]


@settings(max_examples=3000)
@given(st.lists(few, max_size=8), st.lists(few, max_size=3))
def test_pieces_join_to_the_text_before_the_first_stop_word(pieces: list[str], words: list[str]) -> None:
    text = "".join(pieces)
    expected = truth(text, words)
    assert "".join(in_pieces(pieces, words)) == expected
    kept = cut(text, words)
    assert (text if kept is None else kept) == expected
    assert (kept is None) == (not any(word and word in text for word in words))


@settings(max_examples=1000)
@given(few, few, st.lists(few, min_size=1, max_size=3))
def test_no_piece_holds_what_may_be_a_stop_word(text: str, more: str, words: list[str]) -> None:
    """Whatever comes next, what was given out belongs to the answer; and nothing else is held back."""
    stopping = Stopping(words)
    given_out = stopping.push(text, final=False)
    assert truth(text + more, words).startswith(given_out)
    if not stopping.ended:
        held = text[len(given_out) :]
        assert held == "" or any(word.startswith(held) for word in words)


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("one two", ["two"], "one "),
        ("one two", ["e t", "two"], "on"),
        ("xxabyy", ["xxabyy", "ab"], "xx"),  # `ab` is complete first
        ("abc", ["bc", "abc", "c"], ""),  # all three at once: the longest
        ("aab", ["ab"], "a"),
        ("abab!", ["abab?"], "abab!"),
        ("a👩‍👧", ["👧"], "a👩‍"),
        ("", ["a"], ""),
    ],
)
def test_examples(text: str, words: list[str], expected: str) -> None:
    assert truth(text, words) == expected
    assert "".join(in_pieces(list(text), words)) == "".join(in_pieces([text], words)) == expected


@pytest.mark.parametrize("size", [1, 4])
def test_streams_take_tokens_up_to_the_stop_word(size: int) -> None:
    """However the tokens arrive: the ids taken are those up to the one that makes the word complete."""
    rng = random.Random(7)
    text = "What is shown in the picture? Which city is this? 🙂 the street"
    ids = TOKENIZER.encode(text, special_tokens=False)
    for _ in range(200):
        start = rng.randrange(len(text))
        words = [text[start : start + rng.randrange(1, 9)], "absent"]
        stream = Detokenizer(TOKENIZER).stream(words)
        pieces = [stream.push(ids[at : at + size]) for at in range(0, len(ids), size)]
        taken = stream.tokens
        assert "".join([*pieces, stream.finish()]) == truth(text, words)
        assert stream.ended
        whole = next(n for n in range(len(ids) + 1) if words[0] in TOKENIZER.decode(ids[:n]))
        while whole < len(ids) and TOKENIZER.is_byte(ids[whole - 1]):
            whole += 1  # until another token follows, bytes are not certain to be a character
        assert taken == whole


def nested(rng: random.Random) -> str:
    """Words that share beginnings and ends, and lie in one another."""
    return "".join(rng.choice(["a", "aa", "ab", "ba", "b", "🙂"]) for _ in range(rng.randrange(1, 7)))


def test_many_words_that_begin_and_end_alike() -> None:
    rng = random.Random(11)
    ended = 0
    for _ in range(2000):
        words = [nested(rng) + rng.choice(["", "c", "d"]) for _ in range(rng.randrange(1, 20))]
        words = [word for word in words if len(word) > 3]
        pieces = [nested(rng) for _ in range(rng.randrange(1, 12))]
        expected = truth("".join(pieces), words)
        assert "".join(in_pieces(pieces, words)) == expected
        ended += expected != "".join(pieces)
    assert 300 < ended < 1700


@pytest.mark.parametrize(
    "words",
    [
        ["a" * 254 + chr(0x4E00 + number) + "z" for number in range(1024)],
        ["a" * 255 + "z", *("b" + "a" * (number % 255) + chr(0x4E00 + number) for number in range(1023))],
        ["a" * 255 + "z", *("b" + "a" * number for number in range(1, 256))],
    ],
)
def test_as_many_words_as_a_request_may_have_as_long_as_they_may_be(words: list[str]) -> None:
    stopping = Stopping(words)
    given_out = "".join(stopping.push("a", final=False) for _ in range(4000))
    assert 4000 - 255 <= len(given_out) <= 4000 - 254


def test_work_does_not_grow() -> None:
    """Of a text that goes on looking like the beginning of a stop word, no more than the word's length is held."""
    word = "ab" * 20 + "c"
    stopping = Stopping([word])
    given_out = 0
    for count in range(1, 5000):
        given_out += len(stopping.push("ab", final=False))
        assert 2 * count - given_out < len(word)
