"""Image layout: a page, cut to what is printed on it, scaled into the engine's size and centred there on black.

Bit for bit NougatImageProcessor of transformers 5.23. The language model attends to the page's rows, none of which
stands in the prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pixels import PixelTransform
from placement import Placed
from preprocessing_settings import Settings

PAPER = 200  # levels from here on are margin, after the page's own levels are stretched to 0..255
REDUCING_GAP = 2.0


class ImageLayout:
    takes_pixels = True

    def __init__(self, settings: Settings) -> None:
        layout: dict[str, Any] = dict(settings["layout"])
        self._height: int = layout["size"]["height"]
        self._width: int = layout["size"]["width"]
        self._crops: bool = layout["crop_margin"]
        self._turns: bool = layout["align_long_axis"]
        self._transform = PixelTransform(settings["pixels"], settings["limits"]["max_image_pixels"])
        self.entry = (3, self._height, self._width)
        self.dtype = self._transform.dtype
        self._placed = Placed((1, *self.entry), settings["rows_per_image"], np.empty(0, dtype=np.int64))

    def place(self, width: int, height: int) -> Placed:
        """The same for every size."""
        return self._placed

    def draw(self, image: Image.Image, out: NDArray[Any]) -> None:
        """Write the pixels of `image` (mode RGB) to out[0]. Raises RequestError when it is too elongated."""
        if self._crops:
            image = without_margin(image)
        if self._turns:
            image = self._turned(image)
        image = self._fitted(self._transform.resize_shortest(image, min(self._height, self._width)))
        page = Image.new("RGB", (self._width, self._height))
        page.paste(image, ((self._width - image.width) // 2, (self._height - image.height) // 2))
        self._transform.normalise(np.asarray(page), out[0])

    def _turned(self, image: Image.Image) -> Image.Image:
        """`image` turned clockwise if it lies and the page stands, or the other way round."""
        lies, page_lies = image.width - image.height, self._width - self._height
        return image.transpose(Image.Transpose.ROTATE_270) if lies * page_lies < 0 else image

    def _fitted(self, image: Image.Image) -> Image.Image:
        """`image` scaled down to fit the page; the longer side decides."""
        width, height = min(image.width, self._width), min(image.height, self._height)
        if (width, height) == image.size:
            return image
        if image.height > image.width:
            width = int(image.width * height / image.height)
        elif image.width > image.height:
            height = int(image.height * width / image.width)
        return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP)


def without_margin(image: Image.Image) -> Image.Image:
    """The part of `image` (mode RGB) that holds everything darker than paper; all of it if it has one level only."""
    grey = image.convert("L")
    levels = np.flatnonzero(grey.histogram())
    low, high = int(levels[0]), int(levels[-1])
    if low == high:
        return image
    is_print = [(level - low) / (high - low) * 255 < PAPER for level in range(256)]
    return image.crop(grey.point([255 * dark for dark in is_print]).getbbox())
