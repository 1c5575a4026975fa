"""Rounding to bfloat16 without torch. Its tensors are tested through a real Triton by the parity tests of neva."""

from __future__ import annotations

import bfloat16
import numpy as np
import torch
from pixels import rounded


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


def test_pixels_keep_their_shape_and_other_dtypes_are_cast() -> None:
    values = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)
    assert rounded(values, bfloat16.BITS).shape == (2, 3, 4) and rounded(values, bfloat16.BITS).dtype == np.uint16
    np.testing.assert_array_equal(rounded(values, np.dtype(np.float16)), values.astype(np.float16))
