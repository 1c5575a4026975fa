"""Input files for perf_analyzer: different requests with real image files, texts and answer lengths.

perf_analyzer takes a JSON file {"data": [row, ...]}, a row holding each input by name with its shape (without the
batch's dimension). Binary values are base64 of what crosses the wire: for BYTES each element after its length as four
bytes, little-endian (tried with perf_analyzer 2.49 on Triton 2.51).
"""

from __future__ import annotations

import base64
import functools
import json
import random
import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator.bench.points import Requests
from generator.server import ServerError

if TYPE_CHECKING:
    from PIL import Image

JPEG_QUALITY = 90
COARSEST = 4  # cells along a side of the coarsest layer of a made picture
COARSER_SHARE = 0.35  # 1.4 bits per pixel at 640 x 480, 0.8 at 4032 x 3024, as photographs of quality 90 have
WORDS = (
    "what",
    "is",
    "there",
    "in",
    "this",
    "picture",
    "near",
    "the",
    "old",
    "house",
    "by",
    "water",
    "on",
    "a",
    "clear",
    "day",
)


class Pictures:
    """JPEG files of any size: made ones, or given pictures scaled. Equal numbers give equal bytes.

    A made picture is noise in layers, coarse ones strong and fine ones weak, as photographs have them, so that decoding
    costs what a photograph's does; plain noise would compress to several times the size.
    """

    def __init__(self, files: Sequence[Path] = ()) -> None:
        try:
            from PIL import Image
        except ImportError:
            raise ServerError("the Python package pillow is not installed", "pip install 'gen-repo[bench]'") from None
        self._image = Image
        try:
            self._given = [Image.open(file).convert("RGB") for file in files]
        except OSError as error:
            raise ServerError(f"cannot read a picture: {error}", "give JPEG, PNG or WebP files") from error

    def jpeg(self, number: int, size: tuple[int, int]) -> bytes:
        """Picture `number`, `size` (width, height) pixels large."""
        picture = self._given[number % len(self._given)].resize(size) if self._given else self._made(number, size)
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()

    def _made(self, number: int, size: tuple[int, int]) -> Image.Image:
        source = random.Random(number)  # noqa: S311 -- a picture, no secret
        cells = [COARSEST]
        while 2 * cells[-1] <= max(size):
            cells.append(2 * cells[-1])
        finest, *coarser = (
            self._image.frombytes("RGB", (side, side), source.randbytes(3 * side * side)).resize(size)
            for side in reversed(cells)
        )
        return functools.reduce(lambda made, layer: self._image.blend(made, layer, COARSER_SHARE), coarser, finest)


def text(number: int, words: int) -> str:
    """`words` words, different for each number, so that no prompt begins like another."""
    source = random.Random(number)  # noqa: S311 -- a question, no secret
    return " ".join([str(number), *(source.choice(WORDS) for _ in range(words - 1))][:words])


def values(requests: Requests, number: int, pictures: Pictures, videos: Sequence[bytes], *, stream: bool) -> Values:
    """Inputs of request `number` by name."""
    made: Values = {"max_tokens": requests.tokens, "min_tokens": requests.tokens}
    if requests.words:
        made["text_input"] = text(number, requests.words)
    if videos:
        made["video_encoded_input"] = [videos[number % len(videos)]]
    elif requests.images and requests.size:
        first = number * requests.images
        made["image_encoded_input"] = [pictures.jpeg(first + i, requests.size) for i in range(requests.images)]
    return made | ({"stream": True} if stream else {})


Values = dict[str, Any]


def row(request: Values) -> dict[str, Any]:
    """The request as perf_analyzer reads it."""
    made = {}
    for name, value in request.items():
        items = value if isinstance(value, list) else [value]
        if isinstance(items[0], bytes):
            wire = b"".join(struct.pack("<I", len(item)) + item for item in items)
            made[name] = {"b64": base64.b64encode(wire).decode(), "shape": [len(items)]}
        else:
            made[name] = {"content": items, "shape": [len(items)]}
    return made


def write(file: Path, requests: Sequence[Values]) -> None:
    file.write_text(json.dumps({"data": [row(request) for request in requests]}))
