"""Image layout: the image enlarged to fill a grid of crops, and a global view of that grid squashed to one entry.

In the prompt stand the rows of the crops line by line across the whole grid, each line closed by a separator row, then
a row between, then the global view in the same way. It follows from the image's size, so it is index arithmetic
(Phi-3-vision; microsoft/Phi-3-vision-128k-instruct, its image processor and hd_feature_transform).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from antialias import fused
from numpy.typing import NDArray
from PIL import Image
from pixels import PixelTransform
from placement import Placed
from preprocessing_settings import Settings
from tensors import RequestError
from workers import WORKERS

LINE_END, BETWEEN = -1, -2  # constant rows 0 and 1
WHITE = 255
PLACES = 16  # of an axis, interpolated at a time
CUBIC = -0.75  # the coefficient of torch's bicubic interpolation; Pillow's is -0.5


class ImageLayout:
    takes_pixels = False

    def __init__(self, settings: Settings) -> None:
        layout: dict[str, Any] = dict(settings["layout"])
        self._crops: int = layout["max_crops"]
        self._tile: int = layout["tile"]
        self._side: int = layout["rows_per_side"]
        self._transform = PixelTransform(settings["pixels"], settings["limits"]["max_image_pixels"])
        self.entry = self._transform.shape
        self.dtype = self._transform.dtype

    def place(self, width: int, height: int) -> Placed:
        """The global view and one entry per crop. Raises RequestError for an image that is too elongated."""
        down, across = self._grid(width, height)
        rows_per_tile = self._side**2
        line, column = np.mgrid[: self._side * down, : self._side * across]
        crop = 1 + (line // self._side) * across + column // self._side
        crops = crop * rows_per_tile + (line % self._side) * self._side + column % self._side
        view = np.arange(rows_per_tile).reshape(self._side, self._side)
        sequence = np.concatenate([_lines(crops), [BETWEEN], _lines(view)])
        entries = 1 + down * across
        return Placed((entries, *self.entry), entries * rows_per_tile, sequence)

    def draw(self, image: Image.Image, out: NDArray[Any]) -> None:
        """Write the global view to out[0] and the crops, row by row, behind it."""
        down, across = self._grid(*image.size)
        upright = image.width < image.height
        if upright:  # laid on its side, so that the padding lies left and right
            image = image.transpose(Image.Transpose.TRANSPOSE)
        levels = self._padded(image)
        if upright:
            levels = levels.transpose(1, 0, 2)
        out[0] = self._transform.rounded(squashed(levels, self._transform.exact, self._tile))
        corners = [(y * self._tile, x * self._tile) for y in range(down) for x in range(across)]
        self._transform.normalise_tiles(levels, self._tile, corners, out[1:])

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of a lying image scaled to as many crops as it can fill."""
        ratio = width / height
        across = max(n for n in range(1, self._crops + 1) if n * math.ceil(n / ratio) <= self._crops)
        scaled = across * self._tile, int(across * self._tile / ratio)
        if scaled[1] < 1:
            raise RequestError(f"an image of {width}x{height} pixels is too elongated for this model: crop it", "image")
        return scaled

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """How many crops lie below each other and beside each other."""
        scaled = self._scaled(max(width, height), min(width, height))
        lying = -(-scaled[1] // self._tile), scaled[0] // self._tile
        return lying if width >= height else (lying[1], lying[0])

    def _padded(self, image: Image.Image) -> NDArray[np.uint8]:
        """A lying image, scaled, white above and below it up to whole crops; uint8 [H,W,3]."""
        width, height = self._scaled(*image.size)
        full = -(-height // self._tile) * self._tile
        levels = np.full((full, width, 3), WHITE, dtype=np.uint8)
        top = (full - height) // 2
        levels[top : top + height] = np.asarray(self._transform.resize(image, height, width))
        return levels


def squashed(levels: NDArray[np.uint8], table: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The values that `table` [3,256] has for `levels` [H,W,3], interpolated to [3,side,side] as torch's bicubic
    interpolate without antialiasing does.

    torch's compiled loop fuses each multiplication with the addition that follows; a float64 step rounded to float32
    is the same but for one rounding in some millions.
    """
    rows, row_weights = _taps(levels.shape[0], side)
    columns, column_weights = _taps(levels.shape[1], side)
    needed, place = np.unique(rows, return_inverse=True)
    lines = levels[needed]

    def column_values(first: int, last: int) -> NDArray[np.float32]:
        part = lines[:, first:last].transpose(1, 2, 0)
        return np.stack([np.take(table[channel], part[:, channel], mode="clip") for channel in range(3)], axis=1)

    across = _pass(column_values, columns, column_weights)  # [side,3,needed]
    turned = np.ascontiguousarray(across.transpose(2, 1, 0))
    made = _pass(lambda first, last: turned[first:last], place.reshape(rows.shape), row_weights)
    return made.transpose(1, 0, 2)


def _pass(
    source: Callable[[int, int], NDArray[np.float32]], positions: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sums of four taps, [n,...]: `source` gives the lines from one position to another, [N,...]. Fused step by step,
    in the order that compilers give that loop."""

    def block(part: slice) -> NDArray[np.float32]:
        own = positions[:, part]
        first = int(own.min())
        lines = source(first, int(own.max()) + 1)
        total: NDArray[np.float32] = lines[own[1] - first] * weights[1, part, None, None]
        for tap in (0, 2, 3):
            fused(total, lines[own[tap] - first], weights[tap, part, None, None])
        return total

    parts = [slice(start, start + PLACES) for start in range(0, positions.shape[1], PLACES)]
    return np.concatenate(WORKERS.each(block, parts))


def _taps(size: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The four source positions of each of `side` places, clamped to `size`, and their float32 weights: [4,side]."""
    source = np.float32(size / side) * (np.arange(side, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    first = np.floor(source)
    part = source - first
    near, far = np.float32(CUBIC + 2), np.float32(CUBIC + 3)
    inner = [((near * x - far) * x) * x + np.float32(1) for x in (part, np.float32(1) - part)]
    a = np.float32(CUBIC)
    outer = [
        ((a * x - np.float32(5) * a) * x + np.float32(8) * a) * x - np.float32(4) * a
        for x in (part + np.float32(1), (np.float32(1) - part) + np.float32(1))
    ]
    positions = np.clip(first.astype(np.int64) + np.arange(-1, 3)[:, None], 0, size - 1)
    return positions, np.stack([outer[0], inner[0], inner[1], outer[1]])


def _lines(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A grid of rows line by line, each line closed by the separator."""
    return np.pad(rows, ((0, 0), (0, 1)), constant_values=LINE_END).reshape(-1)
