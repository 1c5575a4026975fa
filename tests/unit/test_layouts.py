"""Image layouts by index alone: hundreds of image sizes against the packing of transformers and of the original code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from anyres_tiles import ImageLayout as AnyresTiles
from flattened_patches import ImageLayout as FlattenedPatches
from hd_tiles import ImageLayout as HdTiles
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from patch_grid import ImageLayout as PatchGrid
from PIL import Image
from placement import TOKEN
from tensors import RequestError
from transformers import LlavaNextConfig, LlavaNextModel
from transformers.image_utils import SizeDict
from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil
from transformers.models.pix2struct.image_processing_pil_pix2struct import Pix2StructImageProcessorPil

from generator.models import specs
from generator.oracle.phi3_vision import arrange, hd_transform
from tests import charts
from tests.unit import serving

SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


def layout_settings(model: str) -> Any:
    spec = specs()[model]
    pixels = spec.variants[0].pixels
    return serving.settings(
        layout={"module": spec.layout.module, **spec.layout.settings},
        pixels={
            "steps": [],
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "shape": list(pixels.shape),
            "resample": pixels.resample,
        },
    )


ANYRES = AnyresTiles(layout_settings("llava-next"))
HD = HdTiles(layout_settings("phi-3-vision"))
GRID = PatchGrid(layout_settings("fuyu"))
PATCHES = FlattenedPatches(layout_settings("deplot"))
GRIDS = [list(grid) for grid in specs()["llava-next"].layout.settings["grids"]]


class Packer:
    """transformers' own packing, on rows that hold their own number."""

    config = LlavaNextConfig(image_grid_pinpoints=GRIDS, vision_config={"image_size": 336, "patch_size": 14})

    def packed(self, entries: int, width: int, height: int) -> NDArray[np.int64]:
        numbers = torch.arange(entries * 576, dtype=torch.float64).reshape(entries, 576, 1)
        newline = torch.tensor([-1.0], dtype=torch.float64)
        features, _ = LlavaNextModel.pack_image_features(
            self,  # type: ignore[arg-type]
            [numbers],
            torch.tensor([[height, width]]),
            "default",
            newline,
        )
        found: NDArray[np.int64] = features[0][:, 0].numpy().astype(np.int64)
        return found


@settings(max_examples=300)
@given(SIZES)
def test_tiles_are_packed_as_transformers_packs_them(size: tuple[int, int]) -> None:
    placed = ANYRES.place(*size)
    wanted = Packer().packed(placed.shape[0], *size)
    assert placed.sequence.tolist() == wanted.tolist()
    assert placed.rows == placed.shape[0] * 576


@pytest.mark.parametrize(
    ("height", "width", "tiles", "tokens"),
    [
        (336, 336, 3, 1176),
        (672, 672, 5, 2928),
        (480, 640, 5, 2340),
        (640, 480, 5, 2352),
        (1080, 1920, 5, 1948),
        (300, 700, 4, 1944),
        (700, 300, 4, 1976),
        (100, 1000, 4, 1160),
        (427, 640, 5, 2144),
        (808, 1100, 5, 2340),
        (899, 1024, 5, 2634),
    ],
)
def test_known_counts(height: int, width: int, tiles: int, tokens: int) -> None:
    placed = ANYRES.place(width, height)
    assert (placed.shape[0], len(placed.sequence)) == (tiles, tokens)


@settings(max_examples=300)
@given(SIZES)
def test_crops_are_arranged_as_the_original_arranges_them(size: tuple[int, int]) -> None:
    width, height = size
    try:
        placed = HD.place(width, height)
    except RequestError as refused:
        assert max(size) > 300 * min(size), refused
        return
    down, across = HD._grid(width, height)
    views = torch.arange(placed.rows, dtype=torch.float64).reshape(placed.shape[0], 144, 1)
    ends = torch.tensor([[-1.0]], dtype=torch.float64), torch.tensor([[-2.0]], dtype=torch.float64)
    wanted = arrange(views, (down, across), *ends)[:, 0]
    assert placed.sequence.tolist() == wanted.long().tolist()
    assert placed.shape[0] == 1 + down * across <= 17


@settings(max_examples=40)
@given(st.tuples(st.integers(1, 900), st.integers(1, 900)).filter(lambda s: max(s) < 30 * min(s)))
def test_grid_of_crops_is_that_of_the_transformed_image(size: tuple[int, int]) -> None:
    transformed = hd_transform(serving.picture(1, *size), 16)
    assert HD._grid(*size) == (transformed.height // 336, transformed.width // 336)


@settings(max_examples=300)
@given(st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
def test_patches_are_those_of_transformers(size: tuple[int, int]) -> None:
    width, height = size
    processor = FuyuImageProcessorPil()
    image = np.broadcast_to(np.uint8(0), (3, height, width))
    scale = min(1080 / height, 1920 / width)
    fitted = (height, width) if scale >= 1 else (int(height * scale), int(width * scale))
    if 0 in fitted:
        return  # transformers cannot scale an image to nothing; ours keeps a pixel
    if scale < 1 and max(size) < 2500:
        assert processor.resize(image, processor_size()).shape[-2:] == fitted
    lines, columns = (-(-edge // 30) for edge in fitted)
    placed = GRID.place(width, height)
    assert placed.shape == (1, 1, lines * columns, 2700) and placed.rows == lines * columns
    grid = placed.sequence.reshape(lines, columns + 1)
    assert (grid[:, -1] >= TOKEN).all() and grid[:, :-1].reshape(-1).tolist() == list(range(lines * columns))


def processor_size() -> Any:
    return SizeDict(height=1080, width=1920)


@pytest.mark.parametrize("model", ["llava-next", "phi-3-vision", "fuyu"])
def test_no_image_exceeds_the_numbers_that_limits_are_computed_from(model: str) -> None:
    layout = {"llava-next": ANYRES, "phi-3-vision": HD, "fuyu": GRID}[model]
    spec = specs()[model]
    assert spec.layout.largest is not None
    entries, tokens = spec.layout.largest(spec.layout.settings)
    sides = [1, 7, 30, 336, 337, 500, 672, 1000, 1080, 1344, 1920, 2000, 5376]
    placed = []
    for width in sides:
        for height in sides:
            try:
                placed.append(layout.place(width, height))
            except RequestError:
                continue
    assert max(p.shape[0] for p in placed) == entries
    assert max(len(p.sequence) for p in placed) == tokens


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(1, 700), st.integers(1, 700)))
def test_as_many_patches_as_transformers_finds_room_for(size: tuple[int, int]) -> None:
    width, height = size
    processor = Pix2StructImageProcessorPil()
    zeros = np.zeros((3, height, width), np.float32)
    truth = processor.extract_flattened_patches(zeros, 2048, SizeDict(height=16, width=16))
    placed = PATCHES.place(*size)
    assert placed.shape == (1, *truth.shape) and len(placed.sequence) == 0
    assert placed.rows == int((truth[:, 0] > 0).sum())
    drawn = np.zeros(placed.shape, PATCHES.dtype)
    PATCHES.draw(Image.new("RGB", size, "#123456"), drawn)
    np.testing.assert_array_equal(drawn[0, :, :2], truth[:, :2])


@pytest.mark.parametrize("number", range(0, charts.COUNT, 3))
def test_pixels_of_patches_are_those_of_transformers(number: int) -> None:
    """To the last bit here, within what torch's kernels differ by anywhere."""
    image = charts.drawn(number, *charts.SIZES[number % len(charts.SIZES)])
    made = Pix2StructImageProcessorPil(is_vqa=False)(image, return_tensors="np")
    truth, mask = made["flattened_patches"].astype(np.float16), made["attention_mask"][0]
    placed = PATCHES.place(*image.size)
    assert mask.tolist() == [1.0] * placed.rows + [0.0] * (len(mask) - placed.rows)
    drawn = np.zeros(placed.shape, PATCHES.dtype)
    PATCHES.draw(image, drawn)
    np.testing.assert_array_max_ulp(drawn, truth, maxulp=1, dtype=np.float16)
    assert (drawn != truth).mean() <= 1e-4


def test_the_longest_images_have_a_line_of_patches() -> None:
    assert PATCHES.place(100_000, 1).rows == PATCHES.place(1, 100_000).rows == 2048
    assert PATCHES.place(1, 1).rows == 45 * 45
