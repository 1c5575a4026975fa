"""Image layout: the whole image squashed to one entry, and the image in high resolution cut into tiles.

In the prompt stand the rows of the small view, then those of the tiles line by line across the tiles, without the
padding, each line closed by the model's newline row. All of it follows from the image's size, so it is index
arithmetic: no tensor is rearranged (LLaVA-NeXT; transformers 5.23, select_best_resolution and pack_image_features).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pixels import PixelTransform, on_white
from placement import Placed
from preprocessing_settings import Settings

NEWLINE = -1  # constant row 0


class ImageLayout:
    takes_pixels = False

    def __init__(self, settings: Settings) -> None:
        layout: dict[str, Any] = dict(settings["layout"])
        self._grids: list[tuple[int, int]] = [(height, width) for height, width in layout["grids"]]
        self._tile: int = layout["tile"]
        self._side: int = layout["rows_per_side"]
        self._transform = PixelTransform(settings["pixels"], settings["limits"]["max_image_pixels"])
        self.entry = self._transform.shape
        self.dtype = self._transform.dtype

    def place(self, width: int, height: int) -> Placed:
        """The small view and one entry per tile of the grid that fits this size best."""
        down, across = (edge // self._tile for edge in self._best_grid(width, height))
        rows_per_tile = self._side**2
        line, column = np.mgrid[: self._side * down, : self._side * across]
        tile = 1 + (line // self._side) * across + column // self._side
        rows = tile * rows_per_tile + (line % self._side) * self._side + column % self._side
        rows = self._without_padding(rows, width, height)
        lines = np.pad(rows, ((0, 0), (0, 1)), constant_values=NEWLINE)
        sequence = np.concatenate([np.arange(rows_per_tile), lines.reshape(-1)])
        entries = 1 + down * across
        return Placed((entries, *self._transform.shape), entries * rows_per_tile, sequence)

    def draw(self, image: Image.Image, out: NDArray[Any]) -> None:
        """Write the small view to out[0] and the tiles, row by row, behind it."""
        image = on_white(image)
        height, width = self._best_grid(*image.size)
        canvas = self._on_canvas(image, height, width)
        self._transform.normalise(np.asarray(self._transform.resize(image, self._tile, self._tile)), out[0])
        corners = [(y, x) for y in range(0, height, self._tile) for x in range(0, width, self._tile)]
        self._transform.normalise_tiles(canvas, self._tile, corners, out[1:])

    def _best_grid(self, width: int, height: int) -> tuple[int, int]:
        """The (height, width) that keeps most of the image's pixels, and of those the one that wastes least."""

        def merit(grid: tuple[int, int]) -> tuple[int, int]:
            scale = min(grid[1] / width, grid[0] / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            return kept, kept - grid[0] * grid[1]

        return max(self._grids, key=merit)  # the first of equals, as the order in the checkpoint decides

    def _on_canvas(self, image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
        """The image scaled into height x width, black around it; uint8 [height, width, 3]."""
        across, down = width / image.width, height / image.height
        if across < down:
            new_height, new_width = min(math.ceil(image.height * across), height), width
        else:
            new_height, new_width = height, min(math.ceil(image.width * down), width)
        top, left = (height - new_height) // 2, (width - new_width) // 2
        canvas = np.zeros((height, width, 3), dtype=np.uint8)
        resized = self._transform.resize(image, new_height, new_width)
        canvas[top : top + new_height, left : left + new_width] = np.asarray(resized)
        return canvas

    def _without_padding(self, rows: NDArray[np.int64], width: int, height: int) -> NDArray[np.int64]:
        """The part of the grid of rows that shows the image; the rounding is transformers' unpad_image."""
        lines, columns = rows.shape
        if width / height > columns / lines:
            padding = (lines - int(round(height * (columns / width), 7))) // 2
            return rows[padding : lines - padding]
        padding = (columns - int(round(width * (lines / height), 7))) // 2
        return rows[:, padding : columns - padding]
