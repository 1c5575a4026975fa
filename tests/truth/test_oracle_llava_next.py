"""LLaVA-NeXT's oracle can tell right from wrong; its packing of rows is index arithmetic on the image's size."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from generator.oracle.common import open_image
from generator.oracle.llava_next import LlavaNextOracle
from tests import checkpoints, photos
from tests.truth import oracle_checks

SIDE = 24
PINPOINTS = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
# (height, width) of the picture: tiles, rows that the text sees
KNOWN = {
    (336, 336): (3, 1176),
    (672, 672): (5, 2928),
    (480, 640): (5, 2340),
    (640, 480): (5, 2352),
    (1080, 1920): (5, 1948),
    (300, 700): (4, 1944),
    (700, 300): (4, 1976),
    (100, 1000): (4, 1160),
    (427, 640): (5, 2144),
    (808, 1100): (5, 2340),
    (899, 1024): (5, 2634),
}


@cache
def oracle() -> LlavaNextOracle:
    return LlavaNextOracle(checkpoints.cached("llava-next"))


def grid(height: int, width: int) -> tuple[int, int]:
    """Tiles below and beside each other: most picture kept, then least waste, then the first in the list."""

    def merit(canvas: tuple[int, int]) -> tuple[int, int]:
        scale = min(canvas[1] / width, canvas[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas[0] * canvas[1]

    best = max(PINPOINTS, key=merit)
    return best[0] // 336, best[1] // 336


def indices(height: int, width: int) -> list[int]:
    """Rows of the table [T * 576 + 1, h], newline last, in the order in which the language model sees them."""
    down, across = grid(height, width)
    lines, columns = SIDE * down, SIDE * across
    top = left = 0
    if width / height > columns / lines:
        top = (lines - int(round(height * (columns / width), 7))) // 2
    else:
        left = (columns - int(round(width * (lines / height), 7))) // 2
    newline = SIDE * SIDE * (1 + down * across)
    chosen = list(range(SIDE * SIDE))
    for line in range(top, lines - top):
        for column in range(left, columns - left):
            tile = 1 + line // SIDE * across + column // SIDE
            chosen.append(SIDE * SIDE * tile + SIDE * (line % SIDE) + column % SIDE)
        chosen.append(newline)
    return chosen


def sizes() -> list[tuple[int, int]]:
    generator = np.random.default_rng(0)
    drawn = np.exp(generator.uniform(0, np.log(4000), (320, 2))).astype(int)
    edges = [1, 7, 24, 335, 336, 337, 671, 672, 673, 1007, 1008, 1009, 5000]
    return [*KNOWN, *map(tuple, drawn.tolist()), *((h, w) for h in edges for w in edges)]


def packed_numbers(height: int, width: int) -> list[int]:
    """What transformers' packing does to rows that carry their own number."""
    down, across = grid(height, width)
    tiles = 1 + down * across
    count = SIDE * SIDE * tiles
    numbered = torch.arange(count, dtype=torch.float64).reshape(tiles, SIDE * SIDE, 1)
    newline = torch.tensor([count], dtype=torch.float64)
    size = torch.tensor([[height, width]])
    features, _ = oracle().model.model.pack_image_features([numbered], size, "default", image_newline=newline)
    packed: list[int] = features[0].flatten().int().tolist()
    return packed


def test_packing_is_index_arithmetic() -> None:
    count = oracle().processor._get_number_of_features
    wrong = [size for size in sizes() if indices(*size) != packed_numbers(*size)]
    assert wrong == []
    assert [size for size in sizes() if len(indices(*size)) + 1 != count(*size, 336, 336)] == []


@pytest.mark.parametrize("size", KNOWN)
def test_known_sizes(size: tuple[int, int]) -> None:
    down, across = grid(*size)
    assert (1 + down * across, len(indices(*size))) == KNOWN[size]


@pytest.mark.parametrize("name", ["tiny", "tall", "wide", "chelsea", "rotated"])
def test_rows_of_a_picture(name: str) -> None:
    image = photos.encoded(name)
    (size,) = oracle().sizes([image])
    table = np.concatenate([oracle().rows(oracle().pixels([image])).reshape(-1, 64), oracle().constants()])
    packed = oracle().packed([image])
    np.testing.assert_array_equal(table[indices(*size)], packed[0])
    assert oracle().ids("Why?", [image]).count(oracle().image_id) == packed.shape[1]


def test_answers_are_distinct() -> None:
    oracle_checks.assert_answers_are_distinct(oracle())


def test_mutations_change_the_text() -> None:
    oracle_checks.assert_mutations_change_the_text(oracle(), bos_id=oracle().tokenizer.bos_token_id)


def test_prompt() -> None:
    assert oracle().prompt("Why?", 1) == "[INST] <image>\nWhy? [/INST]"
    assert oracle().prompt("See <image> here", 1) == "[INST] See <image> here [/INST]"
    assert oracle().prompt("Why?", 0) == "[INST] Why? [/INST]"
    ids = oracle().ids("Why?", [photos.encoded("tiny")])
    assert ids[0] == oracle().tokenizer.bos_token_id
    assert ids.count(oracle().tokenizer.bos_token_id) == 1


def tiles_by_hand(picture: Image.Image) -> NDArray[np.uint8]:
    """The tiles' 8-bit colours, [T, 336, 336, 3]: squashed whole, then cuts of the letter-boxed canvas."""
    down, across = grid(picture.height, picture.width)
    height, width = 336 * down, 336 * across
    if width / picture.width < height / picture.height:
        inner = width, min(int(np.ceil(picture.height * (width / picture.width))), height)
    else:
        inner = min(int(np.ceil(picture.width * (height / picture.height))), width), height
    canvas = Image.new("RGB", (width, height))
    resized = picture.resize(inner, Image.Resampling.BICUBIC)
    canvas.paste(resized, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    cuts = [(336 * x, 336 * y, 336 * x + 336, 336 * y + 336) for y in range(down) for x in range(across)]
    whole = picture.resize((336, 336), Image.Resampling.BICUBIC)
    return np.stack([np.asarray(tile) for tile in (whole, *map(canvas.crop, cuts))])


@pytest.mark.parametrize("name", photos.names())
def test_tiles(name: str) -> None:
    """Checks the order of resizing, padding and cutting: black is padded before it is normalised."""
    if name == "palette":
        pytest.skip("the processor paints the transparent colour white, which this sketch does not")
    processor = oracle().processor.image_processor
    picture = open_image(photos.encoded(name))
    colours = tiles_by_hand(picture).transpose(0, 3, 1, 2)
    levels = (colours * np.float64(processor.rescale_factor)).astype(np.float32)
    mean, std = (
        np.array(part, dtype=np.float32)[:, None, None] for part in (processor.image_mean, processor.image_std)
    )
    np.testing.assert_array_equal(((levels - mean) / std).astype(np.float16), oracle().pixels([photos.encoded(name)]))


def test_vision_module() -> None:
    checkpoint = checkpoints.cached("llava-next")
    module = oracle_checks.vision_module("hf_llava_next")
    oracle_checks.assert_module_gives_the_same_rows(module, checkpoint, oracle(), ["tiny", "tall", "chelsea"])
    newline = module.constants(str(checkpoint), torch.float16)
    np.testing.assert_array_equal(newline.numpy(), oracle().constants())


def test_published_names_of_weights_are_understood() -> None:
    checkpoint = checkpoints.cached("llava-next")
    oracle_checks.assert_published_names_are_understood(transformers.LlavaNextForConditionalGeneration, checkpoint)
