"""Decoding of JPEG files by simplejpeg, where it is installed and its pixels equal Pillow's."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

try:
    import simplejpeg  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    simplejpeg = None


def decoded(image: Image.Image, file: bytes) -> Image.Image:
    """The loaded image of `file`, whose header `image` has read; decoded by Pillow where in doubt.

    The result carries the header's metadata, so orientation and colour keys are still there to be honoured.
    """
    if _enabled and image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
        try:
            pixels = simplejpeg.decode_jpeg(file, colorspace="RGB")
        except ValueError:  # damaged or unusual: Pillow decides
            pass
        else:
            if pixels.shape == (image.height, image.width, 3):
                fast = Image.fromarray(pixels)
                fast.info = image.info
                return fast
    image.load()
    return image


def _equals_pillow() -> bool:
    """Whether both decoders, whose JPEG libraries may differ, give the same pixels for one noisy image."""
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    for mode in ("RGB", "L"):
        for subsampling in (0, 1, 2):
            for progressive in (False, True):
                file = BytesIO()
                picture = Image.fromarray(noise).convert(mode)
                picture.save(file, "JPEG", quality=80, subsampling=subsampling, progressive=progressive)
                pillow = np.asarray(Image.open(file, formats=("JPEG",)).convert("RGB"))
                if not np.array_equal(simplejpeg.decode_jpeg(file.getvalue(), colorspace="RGB"), pillow):
                    return False
    return True


_enabled = simplejpeg is not None and _equals_pillow()
