"""What an image layout says of one image: its part of the engine's input, and what stands for it in the prompt."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

TOKEN = 1 << 32


class Placed(NamedTuple):
    """One image, placed.

    shape: of its pixels, [entries, ...]: how many entries of pixel_values it takes, and one entry's shape.
    rows: how many rows the engine gives for it.
    sequence: int64, what stands in the prompt, in order. r >= 0 is row r of this image; -1 - c is row c of the model's
        constant rows, which all images share; TOKEN + id is an ordinary token.
    """

    shape: tuple[int, ...]
    rows: int
    sequence: NDArray[np.int64]


class ImageLayout(Protocol):
    """The layout of one model's images. Each is a module of its own with a class ImageLayout(settings)."""

    takes_pixels: bool
    """Whether a client may send the engine's pixels itself, one entry per image."""
    entry: tuple[int, ...]
    """Shape of the smallest entry, for requests without an image."""
    dtype: np.dtype[Any]

    def place(self, width: int, height: int) -> Placed:
        """Where an image of this size stands; decided by the size alone."""
        ...

    def draw(self, image: Any, out: NDArray[Any]) -> None:
        """Write the pixels of `image` (mode RGB; for a model of videos, a clip) to `out`, which has the placed image's
        shape and our dtype."""
        ...
