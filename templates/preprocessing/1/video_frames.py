"""Video layout: a clip of a fixed number of frames is one entry, its rows frame after frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pixels import PixelTransform
from placement import Placed
from preprocessing_settings import Settings
from videos import Clip


class ImageLayout:
    takes_pixels = False

    def __init__(self, settings: Settings) -> None:
        layout: dict[str, Any] = dict(settings["layout"])
        self._transform = PixelTransform(settings["pixels"], settings["limits"]["max_frame_pixels"])
        self.entry = (int(layout["num_frames"]), *self._transform.shape)
        self.dtype = self._transform.dtype
        rows = settings["rows_per_image"]
        self._placed = Placed((1, *self.entry), rows, np.arange(rows))

    def place(self, width: int, height: int) -> Placed:
        """The same for every size."""
        return self._placed

    def draw(self, image: Clip, out: NDArray[Any]) -> None:
        """Write the frames of a clip to out[0]. Raises RequestError when they are too elongated."""
        for frame, pixels in zip(image.frames, out[0], strict=True):
            self._transform(frame, pixels)
