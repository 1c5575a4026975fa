"""Image layout: the image standardized, scaled so that its patches just fit into the engine's input, and cut up.

Each patch is one row: its line and column, counted from 1, then its pixels. Rows beyond the image's own are zeros and
count for nothing. No row stands in the prompt (Deplot; transformers 5.23, Pix2StructImageProcessorPil).
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
from antialias import scaled
from numpy.typing import NDArray
from PIL import Image
from placement import Placed
from preprocessing_settings import Settings
from workers import WORKERS

COLUMNS = 64  # of the image, looked up at a time
IDS = 2  # values of a row before its pixels


class ImageLayout:
    takes_pixels = False

    def __init__(self, settings: Settings) -> None:
        layout: dict[str, Any] = dict(settings["layout"])
        self._patch: int = layout["patch"]
        self._most: int = layout["max_patches"]
        self.entry = (self._most, IDS + 3 * self._patch**2)
        self._numbers: Any = importlib.import_module(settings["pixels"]["module"])
        self.dtype: np.dtype[Any] = self._numbers.array_dtype(settings["pixels"]["dtype"])

    def place(self, width: int, height: int) -> Placed:
        """One entry, and as many rows as patches fit."""
        lines, columns = self._grid(width, height)
        return Placed((1, *self.entry), lines * columns, np.empty(0, dtype=np.int64))

    def draw(self, image: Image.Image, out: NDArray[Any]) -> None:
        """Write the patches to the first rows of out[0], line by line, pixels in the order y, x, channel."""
        lines, columns = self._grid(*image.size)
        table = standard_table(np.asarray(image))
        # column by column: as the first pass wants it
        levels = np.asarray(image.transpose(Image.Transpose.TRANSPOSE))
        values = np.empty(levels.shape, dtype=np.float32)

        def look_up(part: slice) -> None:
            np.take(table, levels[part], out=values[part], mode="clip")

        WORKERS.each(look_up, [slice(start, start + COLUMNS) for start in range(0, len(levels), COLUMNS)])
        planes = scaled(values.transpose(1, 0, 2), lines * self._patch, columns * self._patch)
        patches = planes.reshape(lines, self._patch, columns, self._patch, 3).transpose(0, 2, 1, 3, 4)
        rows = out[0, : lines * columns]
        rows[:, 0] = self._numbers.rounded(np.repeat(np.arange(1, lines + 1, dtype=np.float32), columns), self.dtype)
        rows[:, 1] = self._numbers.rounded(np.tile(np.arange(1, columns + 1, dtype=np.float32), lines), self.dtype)
        rows[:, IDS:] = self._numbers.rounded(patches.reshape(lines * columns, -1), self.dtype)

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """(lines, columns) of patches."""
        scale = (self._most * (self._patch / height) * (self._patch / width)) ** 0.5
        lines, columns = (max(min(int(scale * edge / self._patch), self._most), 1) for edge in (height, width))
        return lines, columns


def standard_table(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [256]: each level less the mean of 8-bit `levels` [H,W,3], over their deviation. A flat image is not
    blown up. The order in which a mean is summed up is part of it."""
    values = levels.astype(np.float32)
    mean = np.mean(values)
    deviation = max(np.std(values), 1.0 / math.sqrt(values.size))
    result: NDArray[np.float32] = (np.arange(256, dtype=np.float32) - mean) / deviation
    return result
