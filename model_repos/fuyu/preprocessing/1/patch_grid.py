"""Image layout: the image cut into square patches, each one row, every line of patches closed by a newline token.

The engine's input is the patches themselves, as many as the image has: [1, patches, values of a patch]. Small images
keep their size (Fuyu; transformers 5.23, FuyuImageProcessor and FuyuProcessor).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pixels import PixelTransform
from placement import TOKEN, Placed
from preprocessing_settings import Settings
from workers import WORKERS


class ImageLayout:
    takes_pixels = False

    def __init__(self, settings: Settings) -> None:
        layout: dict[str, Any] = dict(settings["layout"])
        self._patch: int = layout["patch"]
        self._most: tuple[int, int] = (layout["max_height"], layout["max_width"])
        self._padding: int = layout["padding_level"]
        self._newline = TOKEN + int(layout["newline_id"])
        self._transform = PixelTransform(settings["pixels"], settings["limits"]["max_image_pixels"])
        self.entry = (1, 1, 3 * self._patch**2)
        self.dtype = self._transform.dtype

    def place(self, width: int, height: int) -> Placed:
        """One row per patch of the image, which is scaled down to the largest size if it is larger."""
        new_height, new_width = self._fitted(width, height)
        down, across = (-(-edge // self._patch) for edge in (new_height, new_width))
        rows = np.arange(down * across).reshape(down, across)
        sequence = np.pad(rows, ((0, 0), (0, 1)), constant_values=self._newline).reshape(-1)
        return Placed((1, 1, down * across, 3 * self._patch**2), down * across, sequence)

    def draw(self, image: Image.Image, out: NDArray[Any]) -> None:
        """Write the patches to out[0, 0], line by line, values in the order y, x, channel."""
        height, width = self._fitted(*image.size)
        if (height, width) != (image.height, image.width):
            image = self._transform.resize(image, height, width)
        down, across = (-(-edge // self._patch) for edge in (height, width))
        levels = np.full((down * self._patch, across * self._patch, 3), self._padding, dtype=np.uint8)
        levels[:height, :width] = np.asarray(image)

        def line(number: int) -> None:
            part = levels[number * self._patch : (number + 1) * self._patch].reshape(self._patch, across, -1)
            patches = part.transpose(1, 0, 2).reshape(-1, 3)
            out[0, 0, number * across : (number + 1) * across] = self._transform.values(patches).reshape(across, -1)

        WORKERS.each(line, range(down))

    def _fitted(self, width: int, height: int) -> tuple[int, int]:
        """(height, width) scaled down to the largest size, never up."""
        most_height, most_width = self._most
        if width <= most_width and height <= most_height:
            return height, width
        scale = min(most_height / height, most_width / width)
        return max(1, int(height * scale)), max(1, int(width * scale))
