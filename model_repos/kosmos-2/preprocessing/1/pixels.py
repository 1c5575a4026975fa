"""From decoded images to the vision engine's pixels, bit for bit as Hugging Face's PIL image processors.

A pixel has 256 levels and a channel one mean and deviation, so rescaling, normalising and rounding are a
table of 3 x 256 numbers, computed once with the processors' own sequence of roundings. An encoder that has this table
inside takes the levels themselves, as uint8.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from level_table import level_table
from numpy.typing import NDArray
from PIL import Image
from preprocessing_settings import Pixels
from resample import resized
from tensors import RequestError
from workers import WORKERS

WHITE = (255, 255, 255, 255)
RESIZE_CROP = "resize_shortest, center_crop"


class PixelTransform:
    """Resizes, crops and normalises RGB images as `settings` say."""

    def __init__(self, settings: Pixels, max_pixels: int) -> None:
        """`max_pixels` bounds what a very elongated image may grow to.

        Raises ValueError when the settings name an unknown step or dtype.
        """
        self.shape = tuple(settings["shape"])
        self._numbers: Any = importlib.import_module(settings["module"])
        self.dtype: np.dtype[Any] = self._numbers.array_dtype(settings["dtype"])
        self.as_levels = self.dtype == np.uint8
        self._resample = Image.Resampling(settings["resample"])
        self._max_pixels = max_pixels
        known: dict[str, Callable[..., Image.Image]] = {
            "resize_shortest": self.resize_shortest,
            RESIZE_CROP: self._resize_crop,
            "resize": self.resize,
            "center_crop": _center_crop,
            "pad_square": self._pad_square,
            "on_white": on_white,
        }
        steps = _joined(settings["steps"])
        unknown = [name for name, *_ in steps if name not in known]
        if unknown:
            raise ValueError(f"settings.json: unknown pixel steps {unknown}; known are {sorted(known)}")
        self._steps = [(known[name], arguments) for name, *arguments in steps]
        self._size = self.shape[:2] if self.as_levels else self.shape[1:]
        self.exact = level_table(settings["rescale_factor"], settings["mean"], settings["std"])
        self._table = self.exact if self.as_levels else self.rounded(self.exact)

    def __call__(self, image: Image.Image, out: NDArray[Any]) -> None:
        """Write the pixels of `image` (mode RGB) to `out`, of this transform's shape and dtype.

        The shape is [3,H,W]; [H,W,3] where the encoder takes levels.

        Raises RequestError when the image is too elongated to be resized.
        """
        for step, arguments in self._steps:
            image = step(image, *arguments)
        levels = np.asarray(image)
        if levels.shape != (*self._size, 3):
            raise ValueError(f"settings.json: the pixel steps give {levels.shape}, not {self.shape}")
        self.normalise(levels, out)

    def normalise(self, levels: NDArray[np.uint8], out: NDArray[Any]) -> None:
        """Write the normalised values of 8-bit `levels` [H,W,3] to `out` [3,H,W], or the levels as they are."""
        if self.as_levels:
            out[...] = levels
            return
        for channel, table in enumerate(self._table):
            # every index is within the table; "clip" only spares numpy a bounds check and a buffer
            np.take(table, levels[..., channel], out=out[channel], mode="clip")

    def values(self, levels: NDArray[np.uint8]) -> NDArray[Any]:
        """The normalised values of 8-bit `levels` [n,3], channels last as they are."""
        values = np.empty(levels.shape, dtype=self.dtype)
        for channel, table in enumerate(self._table):
            values[:, channel] = np.take(table, levels[:, channel], mode="clip")
        return values

    def normalise_tiles(
        self, levels: NDArray[np.uint8], side: int, corners: Sequence[tuple[int, int]], out: NDArray[Any]
    ) -> None:
        """Normalise the squares of `levels` whose upper left (y, x) are `corners` into `out`, one entry each."""

        def tile(place: tuple[NDArray[Any], tuple[int, int]]) -> None:
            entry, (y, x) = place
            self.normalise(levels[y : y + side, x : x + side], entry)

        WORKERS.each(tile, zip(out, corners, strict=True))

    def rounded(self, values: NDArray[Any]) -> NDArray[Any]:
        """Float `values` in our dtype."""
        array: NDArray[Any] = self._numbers.rounded(values, self.dtype)
        return array

    def resize_shortest(self, image: Image.Image, edge: int) -> Image.Image:
        return resized(image, self._shortest(image, edge), self._resample)

    def _resize_crop(self, image: Image.Image, edge: int, height: int, width: int) -> Image.Image:
        """Both steps in one, of which only what the crop keeps is computed."""
        size = self._shortest(image, edge)
        if size[0] < width or size[1] < height:
            return _center_crop(resized(image, size, self._resample), height, width)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        return resized(image, size, self._resample, (left, top, left + width, top + height))

    def _shortest(self, image: Image.Image, edge: int) -> tuple[int, int]:
        """(width, height) with the short side scaled to `edge`."""
        short, long = sorted(image.size)
        new_long = int(edge * long / short)
        if edge * new_long > self._max_pixels:
            raise RequestError(
                f"{image.width}x{image.height} pixels is too elongated: with its short side scaled to {edge} "
                f"it would have more than {self._max_pixels} pixels; crop it",
                "image",
            )
        return (edge, new_long) if image.width <= image.height else (new_long, edge)

    def _pad_square(self, image: Image.Image, *colour: int) -> Image.Image:
        side = max(image.size)
        if image.size == (side, side):
            return image
        if side * side > self._max_pixels:
            raise RequestError(
                f"{image.width}x{image.height} pixels is too elongated: padded to a square it would have {side * side} "
                f"pixels, allowed are {self._max_pixels}; crop it"
            )
        square = Image.new("RGB", (side, side), colour)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square

    def resize(self, image: Image.Image, height: int, width: int) -> Image.Image:
        """`image` scaled to this size with the model's filter."""
        return resized(image, (width, height), self._resample)


def _joined(steps: list[list[Any]]) -> list[list[Any]]:
    """The steps with a crop right after resize_shortest made one with it."""
    joined: list[list[Any]] = []
    for name, *arguments in steps:
        if name == "center_crop" and joined and joined[-1][0] == "resize_shortest":
            joined[-1] = [RESIZE_CROP, *joined[-1][1:], *arguments]
        else:
            joined.append([name, *arguments])
    return joined


def on_white(image: Image.Image) -> Image.Image:
    """`image` (mode RGB) with the pixels of its transparent colour, if its file named one, painted white.

    The alpha channel is gone by now, but a PNG's colour key outlives the conversion to RGB, and Hugging
    Face's processors honour it.
    """
    if image.info.get("transparency") is None:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")


def _center_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))  # black where the image is too small
