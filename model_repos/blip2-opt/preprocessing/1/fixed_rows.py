"""Image layout: every image becomes one entry of one size, which gives a fixed number of rows in their order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pixels import PixelTransform
from placement import Placed
from preprocessing_settings import Settings


class ImageLayout:
    def __init__(self, settings: Settings) -> None:
        self._transform = PixelTransform(settings["pixels"], settings["limits"]["max_image_pixels"])
        self.entry = self._transform.shape
        self.dtype = self._transform.dtype
        self.takes_pixels = not self._transform.as_levels  # what a client sends is normalised already
        rows = settings["rows_per_image"]
        self._placed = Placed((1, *self._transform.shape), rows, np.arange(rows))

    def place(self, width: int, height: int) -> Placed:
        """The same for every size."""
        return self._placed

    def draw(self, image: Image.Image, out: NDArray[Any]) -> None:
        """Write the pixels of `image` (mode RGB) to out[0]. Raises RequestError when it is too elongated."""
        self._transform(image, out[0])
