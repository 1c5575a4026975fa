"""Stop and bad words in the backend's layout: what is written is read back, what is malformed is refused."""

from __future__ import annotations

import sys
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
for folder in ("templates/shared", "templates/torch/tensorrt_llm/1", "tests/doubles"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))

from llm_words import completions, ends_with_any, parse  # noqa: E402
from tensors import RequestError  # noqa: E402

VOCAB = 50
TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4)


@given(words=st.lists(TOKENS, max_size=5), padding=st.integers(0, 3))
def test_words_are_read_back(words: list[list[int]], padding: int) -> None:
    ids = [token for word in words for token in word]
    ends = list(accumulate(map(len, words)))
    length = len(ids) + padding
    layout = np.full((2, length), -1, dtype=np.int32)
    layout[0] = 0
    layout[0, : len(ids)] = ids
    layout[1, : len(ends)] = ends
    assert parse(layout, "stop_words_list", VOCAB) == words


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[5, 6], [-1, 2]], "additional -1s"),
        ([[5, 6], [3, -1]], "out-of-bound offsets"),
        ([[5, 6], [-2, -1]], "out-of-bound offsets"),
        ([[5, 6], [2, 1]], "non-increasing offsets"),
        ([[5, 6], [0, 2]], "non-increasing offsets"),
        ([[5, VOCAB], [1, 2]], f"{VOCAB} is outside the vocabulary of {VOCAB}"),
        ([[5, -1], [1, 2]], "-1 is outside the vocabulary"),
        ([[5, 6]], "odd length"),
    ],
)
def test_malformed_lists_are_refused_by_name(lists: list[list[int]], message: str) -> None:
    with pytest.raises(RequestError, match=f"bad_words_list: .*{message}"):
        parse(np.array(lists, dtype=np.int32), "bad_words_list", VOCAB)


@given(
    history=st.lists(st.integers(0, 2), max_size=8),
    words=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3)),
)
def test_a_completion_is_what_makes_the_history_end_with_a_word(history: list[int], words: list[list[int]]) -> None:
    completing = set(completions(history, words))
    for token in range(3):
        assert (token in completing) == ends_with_any([*history, token], words)
