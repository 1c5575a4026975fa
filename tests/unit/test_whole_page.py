"""Pages become the pixels of transformers' NougatImageProcessor, bit for bit, whatever their size and print."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tensors import RequestError
from transformers.models.nougat.image_processing_pil_nougat import NougatImageProcessorPil
from whole_page import ImageLayout

from generator.models import specs
from generator.oracle.common import open_image
from tests import pages, photos
from tests.unit import serving

SPEC = specs()["nougat"]
WHOLE = {"height": 896, "width": 672}
SMALL = {"height": 64, "width": 48}


@cache
def layout(height: int, width: int, crop: bool, align: bool) -> ImageLayout:
    pixels = SPEC.variants[0].pixels
    chosen = {"size": {"height": height, "width": width}, "crop_margin": crop, "align_long_axis": align}
    numbers: Any = {
        "steps": [],
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "shape": [3, height, width],
        "resample": pixels.resample,
    }
    limits = {**serving.settings()["limits"], "max_image_pixels": 1 << 24 if height == 896 else 100_000}
    return ImageLayout(
        serving.settings(layout={"module": "whole_page", **chosen}, pixels=numbers, rows_per_image=588, limits=limits)
    )


def ours(image: Image.Image, size: dict[str, int], crop: bool = True, align: bool = False) -> NDArray[np.float16]:
    chosen = layout(size["height"], size["width"], crop, align)
    out = np.zeros(chosen.place(*image.size).shape, dtype=chosen.dtype)
    chosen.draw(image, out)
    return out[0]


def theirs(image: Image.Image, size: dict[str, int], crop: bool = True, align: bool = False) -> NDArray[np.float16]:
    processor = NougatImageProcessorPil(size=size, do_crop_margin=crop, do_align_long_axis=align)
    made = processor(image, return_tensors="np")["pixel_values"][0]
    return made.astype(np.float16)  # type: ignore[no-any-return]


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("name", ["a4", "wide landscape", "square", "strip", "scan", "dark", "photo", "blank"])
def test_pages(name: str, crop: bool, align: bool) -> None:
    image = open_image(pages.encoded(name))
    np.testing.assert_array_equal(ours(image, WHOLE, crop, align), theirs(image, WHOLE, crop, align))


@pytest.mark.parametrize("name", photos.names())
def test_photographs_in_every_form(name: str) -> None:
    image = open_image(photos.encoded(name))
    np.testing.assert_array_equal(ours(image, WHOLE), theirs(image, WHOLE))


@given(
    size=st.tuples(st.integers(1, 220), st.integers(1, 220)),
    target=st.sampled_from([SMALL, {"height": 48, "width": 64}, {"height": 50, "width": 50}]),
    levels=st.sampled_from([(255, 0), (200, 199), (199, 255), (90, 40), (255, 254), (7, 7)]),
    print_at=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    flags=st.tuples(st.booleans(), st.booleans()),
)
@example(size=(1, 1), target=SMALL, levels=(255, 0), print_at=(0, 0, 0, 0), flags=(True, True))
@example(size=(48, 64), target=SMALL, levels=(255, 255), print_at=(0, 0, 1, 1), flags=(True, True))
@settings(max_examples=150, deadline=None)
def test_any_size_any_print(
    size: tuple[int, int],
    target: dict[str, int],
    levels: tuple[int, int],
    print_at: tuple[float, float, float, float],
    flags: tuple[bool, bool],
) -> None:
    """A noisy rectangle of ink somewhere on paper."""
    width, height = size
    paper, ink = levels
    page = np.full((height, width, 3), paper, np.uint8)
    left, right = sorted(int(part * width) for part in print_at[:2])
    top, bottom = sorted(int(part * height) for part in print_at[2:])
    noise = np.random.default_rng(width * height).integers(-6, 7, (bottom + 1 - top, right + 1 - left, 3))
    spot = page[top : bottom + 1, left : right + 1]
    spot[:] = np.clip(ink + noise[: spot.shape[0], : spot.shape[1]], 0, 255)
    image = Image.fromarray(page)
    try:
        found = ours(image, target, *flags)
    except RequestError:  # too elongated
        reject()
    np.testing.assert_array_equal(found, theirs(image, target, *flags))


def test_what_is_left_of_a_page_must_not_be_too_elongated() -> None:
    line = Image.new("RGB", (3000, 3000), "white")
    line.paste((0, 0, 0), (7, 0, 8, 3000))
    with pytest.raises(RequestError, match="1x3000 pixels is too elongated"):
        ours(line, WHOLE)
    ours(line, WHOLE, crop=False)


def test_no_row_stands_in_the_prompt() -> None:
    placed = layout(896, 672, True, False).place(10, 10)
    assert (placed.shape, placed.rows, placed.sequence.tolist()) == ((1, 3, 896, 672), 588, [])
