"""Patches by hand: where no pixel is interpolated, where all are equal, and how they are numbered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flattened_patches import ImageLayout
from PIL import Image

from tests.unit import serving


def layout(max_patches: int = 2048, dtype: str = "float16") -> ImageLayout:
    settings: Any = serving.settings(
        layout={"module": "flattened_patches", "patch": 16, "max_patches": max_patches}, pixels={"dtype": dtype}
    )
    return ImageLayout(settings)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("lines", "columns"), [(4, 5), (5, 4), (1, 20), (20, 1)])
def test_a_page_that_fits_is_cut_as_it_is(lines: int, columns: int, dtype: str) -> None:
    page = serving.picture(7, columns * 16, lines * 16)
    made = layout(lines * columns, dtype)
    placed = made.place(*page.size)
    assert placed.shape == (1, 20, 770) and placed.rows == 20
    out = np.zeros(placed.shape, made.dtype)
    made.draw(page, out)
    levels = np.asarray(page).astype(np.float32)
    values = (levels - levels.mean()) / levels.std()
    for row in range(20):
        line, column = divmod(row, columns)
        assert out[0, row, :2].tolist() == [line + 1, column + 1]
        own = values[16 * line : 16 * line + 16, 16 * column : 16 * column + 16]
        np.testing.assert_array_equal(out[0, row, 2:], own.reshape(-1).astype(dtype))


def test_one_colour_is_nothing_but_numbers() -> None:
    made = layout()
    out = np.zeros((1, *made.entry), made.dtype)
    made.draw(Image.new("RGB", (123, 77), "#a0b0c0"), out)
    grey = np.zeros((1, *made.entry), made.dtype)
    made.draw(Image.new("RGB", (123, 77), "#777777"), grey)
    assert np.isfinite(out).all() and not grey[..., 2:].any()
    rows = made.place(123, 77).rows
    assert (out[0, :rows, :2] >= 1).all() and not out[0, rows:].any()


def test_rows_beyond_the_image_are_left_alone() -> None:
    made = layout()
    out = np.full((1, *made.entry), 9, made.dtype)
    made.draw(serving.picture(1, 600, 850), out)
    rows = made.place(600, 850).rows
    assert rows == 38 * 53 and (out[0, rows:] == 9).all() and (out[0, :rows, 0] != 9).any()
