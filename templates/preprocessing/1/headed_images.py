"""Images with the request's text drawn above them, for models that read the question in the picture.

Every pixel equals transformers' render_header for the same font file (transformers 5.23, Pix2StructImageProcessorPil).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import images
import triton_python_backend_utils as pb_utils
from media import Reader, Source
from PIL import Image, ImageDraw, ImageFont
from pixels import on_white
from preprocessing_settings import Settings
from tensors import RequestError, column

LINE_CHARACTERS = 80
TEXT_SIZE = 36
PADDING = 5  # on each side of the text
MAX_CHARACTERS = 4000  # at this size far more than a model can read
MAX_PIXELS = 1 << 25  # of image and text together: standardizing takes 12 bytes each, twice


class Headed(NamedTuple):
    """What an image comes from, and the text above it."""

    source: Source
    text: str


def sources(request: pb_utils.InferenceRequest, model: str, batch: int) -> list[list[Source]]:
    """The images of each of the `batch` rows of `request`, not decoded yet, with the row's text.

    Raises RequestError as images.sources does.
    """
    texts: list[str] = column(request, "text_input", batch, "")
    return [
        [Source(source.tensor, source.label, Headed(source, text)) for source in row]
        for row, text in zip(images.sources(request, model, batch), texts, strict=True)
    ]


def reader(settings: Settings) -> HeadedReader:
    """Raises TritonModelException, with the remedy, when the font is not there."""
    font = Path(__file__).with_name(settings["media"]["font"])
    if not font.is_file():
        raise pb_utils.TritonModelException(
            f"{font.name} is missing beside the step's code: run `gen-repo --model {settings['model']} "
            "--header-font FILE` again (FILE: the font that the model was trained with, Arial)"
        )
    return HeadedReader(images.reader(settings), font, settings["media"]["default_text"])


class HeadedReader:
    """Decodes images with `read` and draws their text above them; `default_text` where there is none to draw."""

    def __init__(self, read: Reader, font: Path, default_text: str) -> None:
        self._read = read
        self._font = ImageFont.truetype(font, encoding="UTF-8", size=TEXT_SIZE)
        self._default_text = default_text

    def __call__(self, source: Source) -> Image.Image:
        """The image of `source` below its text, mode RGB.

        Raises RequestError when the image is refused or cannot be decoded, or the two together are too large.
        """
        headed: Headed = source.value
        image: Image.Image = on_white(self._read(headed.source))
        header = self._header(headed.text)
        width = max(header.width, image.width)
        image_height, header_height = (int(part.height * (width / part.width)) for part in (image, header))
        if width * (image_height + header_height) > MAX_PIXELS:
            raise RequestError(
                f"{source.label}: {image.width}x{image.height} pixels come to {width}x{image_height + header_height} "
                f"with the text above them, allowed are {MAX_PIXELS} in all: crop it or send a smaller one",
                "image",
            )
        page = Image.new("RGB", (width, image_height + header_height), "white")
        page.paste(header.resize((width, header_height)), (0, 0))
        page.paste(image.resize((width, image_height)), (0, header_height))
        return page

    def fetching(self, requests: Sequence[pb_utils.InferenceRequest]) -> AbstractContextManager[None]:
        return self._read.fetching(requests)

    def _header(self, text: str) -> Image.Image:
        """The text in black on white. Raises RequestError when it is too long or cannot be laid out."""
        if len(text) > MAX_CHARACTERS:
            raise RequestError(
                f"text_input has {len(text)} characters, allowed are {MAX_CHARACTERS}: shorten it", "limit"
            )
        try:
            return self._drawn("\n".join(textwrap.wrap(text, LINE_CHARACTERS) or [self._default_text]))
        except (RuntimeError, ValueError, OSError):  # what Pillow and its layout engine raise
            raise RequestError("text_input cannot be drawn: leave out its control characters") from None

    def _drawn(self, wrapped: str) -> Image.Image:
        right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).textbbox((0, 0), wrapped, font=self._font)[2:]
        header = Image.new("RGB", (right + 2 * PADDING, bottom + 2 * PADDING), "white")  # type: ignore[arg-type]
        ImageDraw.Draw(header).text((PADDING, PADDING), wrapped, fill="black", font=self._font)
        return header
