"""What --decode-scale changes: the rows that a tiny random encoder of the model's kind gives for the two pixels.

Its weights are random, so the figures tell orders of magnitude, not the loss of a trained model's answers. For scale,
the same is measured for a JPEG saved anew with another quality, which any client may do.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.preprocessing import sides
from benchmarks.preprocessing.pictures import QUALITY, SIZES, file
from generator.oracle.kosmos2 import Kosmos2Oracle
from generator.oracle.llava import LlavaOracle
from generator.oracle.vila import VilaOracle
from tests import checkpoints

ORACLES: dict[str, Callable[[Path], Any]] = {"llava": LlavaOracle, "vila": VilaOracle, "kosmos-2": Kosmos2Oracle}
PHOTOS = ("china", "flower")


def measure(models: tuple[str, ...]) -> list[dict[str, Any]]:
    """Mean absolute difference of pixel values, and relative difference of rows, per model and size from 1080p up."""
    return [
        {"model": model, "size": size, **_differences(model, SIZES[size])}
        for model in models
        if model in ORACLES
        for size in ("1080p", "12 MP")
    ]


def _differences(model: str, size: tuple[int, int]) -> dict[str, float]:
    oracle = ORACLES[model](checkpoints.cached(model))
    whole, smaller = sides.ours(model), sides.ours(model, sides.ONE_SIZE[model])
    found: dict[str, list[float]] = {}
    for photo in PHOTOS:
        content = file(size, "JPEG", photo)
        truth = _fitting(oracle, model, whole(content))
        for name, pixels in (("--decode-scale", smaller(content)), ("saved anew", whole(_anew(content)))):
            other = _fitting(oracle, model, pixels)
            rows, other_rows = (oracle.rows(values).astype(np.float32) for values in (truth, other))
            of_pixels = float(np.abs(other.astype(np.float32) - truth).mean())
            of_rows = float(np.linalg.norm(other_rows - rows) / np.linalg.norm(rows))
            found.setdefault(f"pixels, {name}", []).append(of_pixels)
            found.setdefault(f"rows, {name}", []).append(of_rows)
    return {name: round(float(np.mean(values)), 5) for name, values in found.items()}


def _anew(content: bytes) -> bytes:
    stream = BytesIO()
    Image.open(BytesIO(content)).save(stream, "JPEG", quality=QUALITY - 10)
    return stream.getvalue()


def _fitting(oracle: Any, model: str, pixels: NDArray[Any]) -> NDArray[Any]:
    """The middle of the pixels, if the tiny encoder looks at a smaller square."""
    tower = oracle.model.config.vision_config if model == "llava" else None
    side = int(tower.image_size) if tower is not None else pixels.shape[-1]
    start = (pixels.shape[-1] - side) // 2
    return np.ascontiguousarray(pixels[..., start : start + side, start : start + side])
