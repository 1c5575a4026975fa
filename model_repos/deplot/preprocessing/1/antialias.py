"""Scaling float images as torch's bilinear interpolate with antialiasing does on a CPU, to the last bit.

Each pixel is a sum over a triangle of source pixels, first along lines, then along columns. torch's compiled loop
takes products four by four, rounded, and adds them one by one; those left over, fewer than four, it fuses with their
additions, as it does where a sum is short. Here a fused step is one in float64, rounded to float32, which is the same
but for one rounding in some hundred millions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK = 1 << 18  # values of an intermediate sum: what fits into a processor's cache
VECTOR = 4


class Taps(NamedTuple):
    """The source positions of each of n places, [k, n], clamped to the image; their weights, 0 beyond a place's own;
    and the number of a place's taps, after its first, whose products are rounded, [n]."""

    positions: NDArray[np.int64]
    weights: Floats
    rounded: NDArray[np.int64]


def scaled(image: Floats, height: int, width: int) -> Floats:
    """`image` [H,W,C] scaled to [height,width,C]."""
    across, down = _taps(image.shape[1], width), _taps(image.shape[0], height)
    lines = np.empty((image.shape[0], width, image.shape[2]), dtype=np.float32)
    for part in _blocks(len(lines), lines[0].size):
        block = image[part]
        lines[part] = _sum(lambda at, block=block: np.take(block, at, axis=1), across, (1, -1, 1))  # type: ignore[misc]
    result = np.empty((height, width, image.shape[2]), dtype=np.float32)
    for part in _blocks(height, lines[0].size):
        own = Taps(down.positions[:, part], down.weights[:, part], down.rounded[part])
        result[part] = _sum(lambda at: np.take(lines, at, axis=0), own, (-1, 1, 1))
    return result


def _blocks(length: int, values: int) -> list[slice]:
    """Slices of `length` entries of so many values each."""
    step = max(1, BLOCK // values)
    return [slice(start, start + step) for start in range(0, length, step)]


def _sum(take: Callable[[NDArray[np.int64]], Floats], taps: Taps, shape: tuple[int, ...]) -> Floats:
    """The weighted sum of what `take` gives at each tap's positions; `shape` lays numbers of places along the axis."""
    weights = taps.weights.reshape(len(taps.weights), *shape)
    rounded = taps.rounded.reshape(shape)
    total: Any = take(taps.positions[0]) * weights[0]
    for tap in range(1, len(weights)):
        product = take(taps.positions[tap]).astype(np.float64) * weights[tap]
        if (tap <= taps.rounded).any():
            product = np.where(tap <= rounded, product.astype(np.float32), product)
        total = (product + total).astype(np.float32)
    return total  # type: ignore[no-any-return]


def _taps(size: int, places: int) -> Taps:
    """Where each of `places` pixels comes from along an axis of `size` pixels; float32 but for one step, as there."""
    one, half = np.float32(1), np.float32(0.5)
    scale = np.float32(size) / np.float32(places)
    support = max(scale, one)
    centre = scale * (np.arange(places, dtype=np.float32) + half)
    first = np.maximum((centre - support + half).astype(np.int64), 0)
    most = 2 * int(np.ceil(support)) + 1
    count = np.clip(np.minimum((centre + support + half).astype(np.int64), size) - first, 0, most)
    tap = np.arange(count.max())[:, None]
    distance = (first + tap).astype(np.float32) - centre
    place = np.abs(((distance.astype(np.float64) + 0.5) * (one / support)).astype(np.float32))
    weights = np.where((tap < count) & (place < one), one - place, np.float32(0))
    total = np.zeros(places, dtype=np.float32)
    for weight in weights:  # one by one: the order is part of the sum
        total += weight
    return Taps(np.minimum(first + tap, size - 1), weights / total, (count - 1) // VECTOR * VECTOR)
