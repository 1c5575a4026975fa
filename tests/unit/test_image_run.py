"""Positions of prompts with visual experts, against the oracle's reading of the published rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_run import positions
from tensors import RequestError

from generator.oracle import cogvlm

VOCAB = 50


@given(before=st.integers(0, 3), rows=st.integers(4, 9), after=st.integers(0, 4))
def test_they_are_the_published_ones(before: int, rows: int, after: int) -> None:
    ids = [*range(before), *range(VOCAB, VOCAB + rows), *range(after)]
    visual = torch.tensor([token >= VOCAB for token in ids])
    found = positions(ids, VOCAB, rows)
    assert found.dtype == np.int32
    assert found.tolist() == cogvlm.positions(visual).tolist()


def test_of_the_published_size() -> None:
    found = positions([1, *range(32000, 33227), 5, 6], 32000, 1227)
    assert found[:3].tolist() == [0, 1, 2]
    assert set(found[2:1227].tolist()) == {2}
    assert found[1227:].tolist() == [3, 4, 5]


def test_of_text_alone() -> None:
    assert positions([3, 4, 5], VOCAB, 6).tolist() == [0, 1, 2]
    assert positions([], VOCAB, 6).tolist() == []


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([0, 1, 2, 3], id="one missing"),
        pytest.param([0, 1, 2, 3, 4, 5], id="one more"),
        pytest.param([0, 2, 1, 3, 4], id="out of order"),
        pytest.param([1, 2, 3, 4, 5], id="shifted"),
        pytest.param([0, 1, 2, 3, 4, 0, 1, 2, 3, 4], id="twice"),
    ],
)
def test_anything_but_one_image_is_refused(rows: list[int]) -> None:
    with pytest.raises(RequestError, match=f"has {len(rows)} rows of the prompt table; this model takes the 5 rows"):
        positions([1, *(VOCAB + row for row in rows), 2], VOCAB, 5)


def test_an_image_in_pieces_is_refused() -> None:
    with pytest.raises(RequestError, match="side by side"):
        positions([VOCAB, VOCAB + 1, 7, VOCAB + 2, VOCAB + 3, VOCAB + 4], VOCAB, 5)
