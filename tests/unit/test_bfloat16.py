"""Rounding to bfloat16 without torch. Its tensors are tested through a real Triton by the parity tests of neva."""

from __future__ import annotations

import json
from pathlib import Path

import bfloat16
import numpy as np
import numpy_numbers
import pytest
import torch
from PIL import Image
from pixels import PixelTransform

from generator.generate import generate
from generator.options import Options
from tests.unit import serving


def as_torch_rounds(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> np.ndarray:
    bits: np.ndarray = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    return bits


def test_every_finite_half_and_random_floats() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].astype(np.float32)
    noise = np.random.default_rng(1).integers(0, 1 << 32, 1 << 18, dtype=np.uint32).view(np.float32)
    for values in (halves, noise[np.isfinite(noise) & (abs(noise) < 3e38)]):
        np.testing.assert_array_equal(bfloat16.rounded(values), as_torch_rounds(values))


def test_ties_go_to_even() -> None:
    ties = np.array([0x3F808000, 0x3F818000, 0xBF808000, 0xBF818000], np.uint32).view(np.float32)
    assert bfloat16.rounded(ties).tolist() == [0x3F80, 0x3F82, 0xBF80, 0xBF82]


@pytest.mark.parametrize("name", ["float16", "float32"])
def test_types_that_numpy_has_are_cast(name: str) -> None:
    values = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)
    dtype = numpy_numbers.array_dtype(name)
    rounded = numpy_numbers.rounded(values, dtype)
    assert rounded.dtype == name and rounded.shape == (2, 3, 4)
    np.testing.assert_array_equal(rounded, values.astype(name))
    made = numpy_numbers.tensor("pixel_values", rounded)
    assert made.name() == "pixel_values" and made.as_numpy() is rounded


def test_the_pixels_of_an_image_are_bits_where_the_engine_takes_bfloat16() -> None:
    levels = np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    made = []
    for changes in ({"dtype": "float32"}, {"dtype": "bfloat16", "module": "bfloat16"}):
        settings = serving.settings(pixels={**serving.SMALL_PIXELS, **changes})
        transform = PixelTransform(settings["pixels"], 1 << 20)
        made.append(np.empty((3, 8, 8), transform.dtype))
        transform(Image.fromarray(levels), made[-1])
    np.testing.assert_array_equal(made[1], as_torch_rounds(made[0]))


@pytest.mark.parametrize(("model", "dtype", "has"), [("neva", "bfloat16", True), ("llava", "float16", False)])
def test_a_repository_has_the_module_of_its_own_type_only(tmp_path: Path, model: str, dtype: str, has: bool) -> None:
    outcome = generate(Options(model=model, working_dir=tmp_path))
    folder = outcome.output / "preprocessing/1"
    assert (folder / "bfloat16.py").is_file() is has and (folder / "numpy_numbers.py").is_file() is not has
    assert json.loads((folder / "settings.json").read_text())["pixels"]["dtype"] == dtype
