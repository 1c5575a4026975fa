"""Scaling equals torch's own: here to the last bit, anywhere within what its kernels differ by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antialias import scaled
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

EDGE = st.integers(2, 300)  # torch mistakes the axes of a picture that is one pixel wide, and no page is


def by_torch(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    planes = torch.from_numpy(image.transpose(2, 0, 1))[None]
    made = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    result: NDArray[np.float32] = made[0].numpy().transpose(1, 2, 0)
    return result


def assert_same(image: NDArray[np.float32], height: int, width: int) -> None:
    ours, theirs = scaled(image, height, width), by_torch(image, height, width)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=4e-6)
    halved = ours.astype(np.float16), theirs.astype(np.float16)
    np.testing.assert_allclose(*halved, rtol=2**-10, atol=2**-18)  # the last bit
    assert (halved[0] != halved[1]).mean() <= 1e-4 or (halved[0] != halved[1]).sum() <= 1


def noise(height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(height * width).standard_normal((height, width, 3)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(EDGE, EDGE, EDGE, EDGE)
def test_any_size(from_height: int, from_width: int, height: int, width: int) -> None:
    assert_same(noise(from_height, from_width), height, width)


@pytest.mark.parametrize(
    ("size", "target"),
    [((4032, 40), (832, 48)), ((40, 4032), (48, 832)), ((3000, 17), (16, 16)), ((1, 1), (720, 720)), ((850, 600), (848, 608))],
)  # fmt: skip
def test_sums_of_every_length(size: tuple[int, int], target: tuple[int, int]) -> None:
    assert_same(noise(*size), *target)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(97, 203)
    whole = scaled(image, 64, 80)
    monkeypatch.setattr("antialias.BLOCK", 500)
    np.testing.assert_array_equal(scaled(image, 64, 80), whole)
