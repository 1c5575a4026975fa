"""The image inputs of a request, and how their entries become decoded RGB images.

Decoding equals Hugging Face's load_image: orientation applied, first frame, then RGB. What a hostile file
could do is bounded before it is decoded.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from io import BytesIO
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from fetch import Fetcher
from jpeg_scans import SIGNATURE, check_scans
from media import Source, carries_something
from numpy.typing import NDArray
from PIL import Image, ImageOps
from preprocessing_settings import Limits, Settings
from tensors import RequestError, optional

FORMATS = ("JPEG", "PNG", "WEBP")
MEDIA_TYPES = ("image/jpeg", "image/jpg", "image/png", "image/webp")
ENCODED, URL, DECODED, PIXELS = "image_encoded_input", "image_url_input", "image_bytes_input", "image_input"
MEMORY_BLOCKS = 4  # of 16 MiB, which Pillow keeps for the next image instead of asking the system for each anew
REFUSED = ("video_bytes_input", "video_encoded_input", "image_sizes_input", "decoder_text_input")


def sources(request: pb_utils.InferenceRequest, model: str, batch: int) -> list[list[Source]]:
    """The images of each of the `batch` rows of `request`, in order, not decoded yet.

    Raises RequestError when an input does not apply to this model, when images come in more than one input,
    or when an input has a wrong number of axes.
    """
    for name in REFUSED:
        if carries_something(optional(request, name)):
            raise RequestError(f"{name} does not apply to {model}: leave it out")
    arrays = {name: optional(request, name) for name in (ENCODED, URL, DECODED, PIXELS)}
    given = {name: array for name, array in arrays.items() if array is not None and carries_something(array)}
    if not given:
        return [[] for _ in range(batch)]
    if len(given) > 1:
        raise RequestError(f"images came in {' and '.join(given)}: send all of a request in one of them")
    [(name, array)] = given.items()
    if name == PIXELS and array.ndim == 4:  # releases up to 0.14 have no axis for several images
        array = array[:, None]
    expected = 2 if name in (ENCODED, URL) else 5
    if array.ndim != expected or len(array) != batch:
        raise RequestError(f"{name} has shape {list(array.shape)}: send {expected} axes, {batch} row(s)")
    return [
        [
            Source(name, f"image {index}{f' of row {row}' if batch > 1 else ''} in {name}", value)
            for index, value in enumerate(entries)
            if not isinstance(value, bytes) or value  # an empty entry is no image
        ]
        for row, entries in enumerate(array)
    ]


def reader(settings: Settings) -> ImageReader:
    return ImageReader(settings["limits"], settings["image_hosts"], settings["pixels"]["decode_edge"])


class ImageReader:
    """Decodes sources within `limits`; fetches URLs from `hosts` only.

    With a `decode_edge`, large JPEGs become images of 1/2, 1/4 or 1/8 of their size, whose sides are at least that
    long: the decoder then computes fewer pixels (see Pillow's draft mode).
    """

    def __init__(self, limits: Limits, hosts: Sequence[str], decode_edge: int | None = None) -> None:
        self._decode_edge = decode_edge
        self._limits = limits
        self._max_bytes = limits["max_image_bytes"]
        self._max_pixels = limits["max_image_pixels"]
        self._fetch = Fetcher(hosts, self._max_bytes)
        Image.core.set_blocks_max(MEMORY_BLOCKS)  # type: ignore[attr-defined]

    def __call__(self, source: Source) -> Image.Image:
        """The image of `source` in mode RGB. Not for client-made pixels (image_input).

        Raises RequestError, naming the image, when it is refused or cannot be decoded.
        """
        read: dict[str, Callable[[Any], Image.Image]] = {
            ENCODED: self._decode,
            URL: lambda value: self._decode(self._file_at(value)),
            DECODED: self._from_array,
        }
        try:
            return read[source.tensor](source.value)
        except RequestError as error:
            reason = "url" if error.reason == "url" else "image"
            raise RequestError(f"{source.label}: {error}", reason) from None

    def fetching(self, requests: Sequence[pb_utils.InferenceRequest]) -> AbstractContextManager[None]:
        """While it is open, what the URLs of `requests` name is fetched, all together: hosts that hang hold up the
        requests, and their neighbours, for one deadline."""
        return self._fetch.begun([url for request in requests for url in self._urls(request)])

    def _urls(self, request: pb_utils.InferenceRequest) -> Iterator[str]:
        """What is to be fetched for the request. Nothing where it is going to be refused, with its own error."""
        with suppress(Exception):
            array = optional(request, URL)
            if array is None or array.ndim != 2 or len(array) > self._limits["max_batch"]:
                return
            rows = [[entry for entry in row if entry] for row in array]
            if max(map(len, rows)) <= self._limits["max_images"]:
                yield from (entry.decode() for row in rows for entry in row if _is_web_address(entry))

    def _file_at(self, value: bytes) -> bytes:
        """The file that a data URI holds or an http(s) URL names."""
        if value[:5].lower() == b"data:":
            return self._data_uri(value)
        if _is_web_address(value):
            try:
                return self._fetch(value.decode())
            except UnicodeDecodeError:
                raise RequestError("the URL is not valid UTF-8: quote it", "url") from None
            except RequestError as error:
                raise RequestError(str(error), "url") from None
        raise RequestError(
            "neither a data URI nor an http(s) URL: "
            f"send data:image/jpeg;base64,... here or the file itself in {ENCODED}"
        )

    def _data_uri(self, uri: bytes) -> bytes:
        header, comma, payload = uri.partition(b",")
        media_type, *parameters = header[len(b"data:") :].decode("ascii", "replace").lower().split(";")
        if not comma or not parameters or parameters[-1].strip() != "base64":
            raise RequestError("the data URI is not base64: send data:image/jpeg;base64,...")
        if media_type.strip() not in MEDIA_TYPES:
            raise RequestError(f"the data URI holds {media_type[:40]!r}: send image/jpeg, image/png or image/webp")
        payload = payload.translate(None, b" \t\r\n\v\f")
        self._check_bytes(len(payload) // 4 * 3 - payload[-2:].count(b"="))
        if b"-" in payload or b"_" in payload:
            raise RequestError("the data URI is URL-safe base64 ('-', '_'): use '+' and '/'")
        try:
            return base64.b64decode(payload, validate=True)
        except binascii.Error:
            raise RequestError("the data URI is not valid base64: check characters and padding") from None

    def _check_bytes(self, size: int) -> None:
        if size > self._max_bytes:
            raise RequestError(f"the file has {size} bytes, allowed are {self._max_bytes}: send a smaller one")

    def _decode(self, file: bytes) -> Image.Image:
        self._check_bytes(len(file))
        if file.startswith(SIGNATURE):
            check_scans(file)
        try:
            image: Image.Image = Image.open(BytesIO(file), formats=FORMATS)
        except Image.DecompressionBombError as error:  # Pillow looks at the header, too, and knows the number
            found = re.search(r"\d+", str(error))
            raise self._too_many_pixels(found[0] if found else "too many") from None
        except Exception:  # decoders raise nearly anything on bytes that are not theirs
            raise RequestError("not a readable JPEG, PNG or WebP file: check or convert it") from None
        if image.width * image.height > self._max_pixels:  # the header alone: nothing is decoded so far
            raise self._too_many_pixels(f"{image.width}x{image.height}")
        try:
            if self._decode_edge:
                image.draft(None, (self._decode_edge, self._decode_edge))
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
            if image.mode == "RGB" and image.format != "WEBP":
                return image
            return image.convert("RGB")  # a WebP would hold on to its decoder, which has two more copies of it
        except Exception:
            raise RequestError("the file is truncated or damaged: send it again") from None

    def _too_many_pixels(self, found: str) -> RequestError:
        return RequestError(f"{found} pixels, allowed are {self._max_pixels} in all: send a smaller one")

    def _from_array(self, array: NDArray[Any]) -> Image.Image:
        if array.shape[-1] == 3:
            channels_last = array
        elif array.shape[0] == 3:
            channels_last = array.transpose(1, 2, 0)
        else:
            raise RequestError(f"shape {list(array.shape)} has no channel axis of size 3: send H,W,3 or 3,H,W")
        height, width = channels_last.shape[:2]
        if height * width > self._max_pixels:
            raise self._too_many_pixels(f"{width}x{height}")
        return Image.fromarray(np.ascontiguousarray(channels_last, dtype=np.uint8))


def _is_web_address(value: bytes) -> bool:
    return value[:8].lower().startswith((b"http://", b"https://"))
