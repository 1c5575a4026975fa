"""Fuyu's oracle can tell right from wrong; patches, lines and newlines follow from the image's size."""

from __future__ import annotations

from functools import cache
from math import ceil

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray
from PIL import Image

from generator.oracle.common import open_image
from generator.oracle.fuyu import FuyuOracle
from tests import checkpoints, photos
from tests.truth import oracle_checks

PATCH = 30
MOST_HIGH, MOST_WIDE = 1080, 1920
KNOWN = {(10, 10): 1, (300, 300): 100, (299, 301): 110, (480, 640): 352, (1080, 1920): 2304, (3000, 4000): 1728}
SIZES = [
    *KNOWN,
    (30, 30),
    (31, 30),
    (30, 31),
    (1, 1920),
    (1080, 1),
    (1081, 1920),
    (1080, 1921),
    (2161, 3841),
    (45, 6000),
]


@cache
def oracle() -> FuyuOracle:
    return FuyuOracle(checkpoints.cached("fuyu"))


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def shrunk(height: int, width: int) -> tuple[int, int]:
    if height <= MOST_HIGH and width <= MOST_WIDE:
        return height, width
    scale = min(MOST_HIGH / height, MOST_WIDE / width)
    return int(height * scale), int(width * scale)


def patches_by_hand(picture: Image.Image) -> NDArray[np.float16]:
    """[P, 2700]: shrunk if too large, padded with level 1 of 255 to whole patches, cut line by line."""
    height, width = shrunk(picture.height, picture.width)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    lines, columns = ceil(height / PATCH), ceil(width / PATCH)
    canvas = np.ones((lines * PATCH, columns * PATCH, 3), dtype=np.uint8)
    canvas[:height, :width] = np.asarray(picture)
    levels = (canvas * np.float64(1 / 255)).astype(np.float32)
    normalised = (levels - np.float32(0.5)) / np.float32(0.5)
    patches = normalised.reshape(lines, PATCH, columns, PATCH, 3).swapaxes(1, 2).reshape(lines * columns, -1)
    return patches.astype(np.float16)


def ids_by_hand(text: str, height: int, width: int) -> list[int]:
    vocabulary = oracle().tokenizer.get_vocab()
    height, width = shrunk(height, width)
    line = [vocabulary["|SPEAKER|"]] * ceil(width / PATCH) + [vocabulary["|NEWLINE|"]]
    words = oracle().tokenizer(text, add_special_tokens=False).input_ids
    return [*line * ceil(height / PATCH), vocabulary["<s>"], *words, vocabulary["<0x04>"]]


@pytest.mark.parametrize("size", SIZES)
def test_layout(size: tuple[int, int]) -> None:
    picture = np.asarray(noise(*size))
    assert oracle().ids("Why?\n", [picture]) == ids_by_hand("Why?\n", *size)
    pixels = oracle().pixels([picture])
    np.testing.assert_array_equal(pixels[0, 0], patches_by_hand(Image.fromarray(picture)))
    assert pixels.shape[2] == KNOWN.get(size, pixels.shape[2])


@pytest.mark.parametrize("text", photos.PROMPTS)
def test_text_between_begin_and_answer(text: str) -> None:
    assert oracle().ids(text, [photos.encoded("tiny")]) == ids_by_hand(text, 5, 7)


@pytest.mark.parametrize("name", photos.names())
def test_patches(name: str) -> None:
    image = photos.encoded(name)
    np.testing.assert_array_equal(oracle().pixels([image])[0, 0], patches_by_hand(open_image(image)))


def test_boxes_in_the_text_stay_as_they_are() -> None:
    """transformers 5.23 rescales their coordinates, but drops the result."""
    text = "Read <box>100, 200, 300, 400</box>"
    assert oracle().ids(text, [np.asarray(noise(2160, 3840))]) == ids_by_hand(text, 2160, 3840)


def test_text_alone_has_no_beginning_of_answer() -> None:
    assert oracle().ids("Why?") == oracle().tokenizer("Why?").input_ids
    assert oracle().ids("Why?")[0] == oracle().tokenizer.get_vocab()["<s>"]


@pytest.mark.parametrize("text", ["see <image>", "see |SPEAKER|"])
def test_marks_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no mark"):
        oracle().ids(text, [photos.encoded("tiny")])


def test_answers_are_distinct() -> None:
    oracle_checks.assert_answers_are_distinct(oracle())


def test_mutations_change_the_text() -> None:
    bos = oracle().tokenizer.get_vocab()["<s>"]
    oracle_checks.assert_mutations_change_the_text(oracle(), bos)


def test_vision_module() -> None:
    module = oracle_checks.vision_module("hf_fuyu")
    checkpoint = checkpoints.cached("fuyu")
    oracle_checks.assert_module_gives_the_same_rows(
        module, checkpoint, oracle(), [*oracle_checks.PLAIN, "pixel", "large"]
    )


def test_published_names_of_weights_are_understood() -> None:
    checkpoint = checkpoints.cached("fuyu")
    oracle_checks.assert_published_names_are_understood(transformers.FuyuForCausalLM, checkpoint)
