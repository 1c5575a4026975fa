"""Photographs of the sizes that clients send, with detail at every scale, as JPEG and PNG files."""

from __future__ import annotations

from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

from tests import photos

SIZES = {"640x480": (640, 480), "1080p": (1920, 1080), "12 MP": (4032, 3024)}
FORMATS = ("JPEG", "PNG")
QUALITY = 90
GRAIN = 6  # levels of noise of a camera's sensor, without which an enlarged photograph is smoother than a real one


@cache
def file(size: tuple[int, int], kind: str = "JPEG", name: str = "china") -> bytes:
    """A photograph of scikit-learn's, enlarged to `size` (width, height) with grain on it, as a file."""
    photo = Image.open(BytesIO(photos.encoded(name))).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(1).integers(-GRAIN, GRAIN + 1, (size[1], size[0], 3), dtype=np.int16)
    levels = np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(levels).save(stream, kind, **({"quality": QUALITY} if kind == "JPEG" else {"compress_level": 6}))
    return stream.getvalue()
