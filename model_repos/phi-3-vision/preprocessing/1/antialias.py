"""Scaling float images as torch's bilinear interpolate with antialiasing does on a CPU, to the last bit.

Each pixel is a sum over a triangle of source pixels, first along lines, then along columns. torch's compiled loop
takes products four by four, rounded, and adds them one by one; those left over, fewer than four, it fuses with their
additions, as it does where a sum is short. Here a fused step is one in float64, rounded to float32, which is the same
but for one rounding in some hundred millions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from workers import WORKERS

Floats = NDArray[np.float32]

BLOCK = 1 << 16  # values of an intermediate sum: what fits into a processor's cache
VECTOR = 4


class Taps(NamedTuple):
    """The source positions of each of n places, [k, n], clamped to the image; their weights, 0 beyond a place's own;
    and the number of a place's taps, after its first, whose products are rounded, [n]."""

    positions: NDArray[np.int64]
    weights: Floats
    rounded: NDArray[np.int64]


def scaled(image: Floats, height: int, width: int) -> Floats:
    """`image` [H,W,C] scaled to [height,width,C]; fastest where its columns lie together."""
    columns = _pass(image.transpose(1, 0, 2), _taps(image.shape[1], width))
    return _pass(_turned(columns), _taps(image.shape[0], height))


def _turned(image: Floats) -> Floats:
    """[N,M,C] as [M,N,C], each pixel moved as one."""
    length, width, channels = image.shape
    pixels = image.reshape(length, -1).view(np.dtype((np.void, channels * image.itemsize)))
    return np.ascontiguousarray(pixels.T).view(np.float32).reshape(width, length, channels)


def fused(total: Floats, values: Floats, weights: Floats) -> None:
    """Add values * weights to `total`, rounded once."""
    np.add(np.multiply(values, weights, dtype=np.float64), total, out=total, dtype=np.float64, casting="same_kind")


def _pass(source: Floats, taps: Taps) -> Floats:
    """Sums along the first axis of `source` [N,...]: [n,...], one for each place of `taps`."""
    result = np.empty((len(taps.rounded), *source.shape[1:]), dtype=np.float32)
    step = max(1, BLOCK // max(1, result[0].size))

    def block(start: int) -> None:
        part = slice(start, start + step)
        own = Taps(taps.positions[:, part], taps.weights[:, part], taps.rounded[part])
        first = int(own.positions.min())
        lines = np.ascontiguousarray(source[first : int(own.positions.max()) + 1])
        for rounded in np.unique(own.rounded).tolist():  # places of one kind: all their steps are the same
            places = np.flatnonzero(own.rounded == rounded)
            positions, weights = own.positions[:, places] - first, own.weights[:, places, None, None]
            total = lines[positions[0]] * weights[0]
            for tap in range(1, min(rounded + VECTOR, len(weights))):
                values = lines[positions[tap]]
                if tap <= rounded:
                    total += np.multiply(values, weights[tap], out=values)
                else:
                    fused(total, values, weights[tap])
            result[start + places] = total

    WORKERS.each(block, range(0, len(result), step))
    return result


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
