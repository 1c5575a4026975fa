"""Pages of print for tests, drawn here: sizes, margins, colours and file formats that clients send, and a PDF."""

from __future__ import annotations

import pydoc_data.topics
import random
from collections.abc import Callable
from functools import cache
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont, ImageOps

from tests import photos

A4 = (827, 1169)  # at 100 dots per inch
LETTER = (850, 1100)
INK, PAPER = (20, 20, 20), (255, 255, 255)


def page(
    seed: int,
    size: tuple[int, int] = A4,
    *,
    margin: float = 0.1,
    lines: int = 40,
    ink: tuple[int, int, int] = INK,
    paper: tuple[int, int, int] = PAPER,
    columns: int = 1,
) -> Image.Image:
    """A heading, `lines` lines of text in columns, a rule and a page number; `margin` is a part of the width."""
    chance = random.Random(seed)
    words = pydoc_data.topics.topics[sorted(pydoc_data.topics.topics)[seed % len(pydoc_data.topics.topics)]].split()
    image = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(image)
    left, width = int(margin * size[0]), int((1 - 2 * margin) * size[0])
    draw.text((left, left), f"{seed}. {' '.join(words[:4]).title()}", ink, ImageFont.load_default(26))
    font = ImageFont.load_default(14)
    for column in range(columns):
        x = left + column * width // columns
        for line in range(lines):
            text = " ".join(chance.choice(words) for _ in range(chance.randrange(2, 12)))[: width // columns // 9]
            draw.text((x, left + 50 + 18 * line), text, ink, font)
    draw.line((left, left + 40, left + width, left + 40), ink, 2)
    draw.text((size[0] // 2, size[1] - left - 20), str(seed), ink, font)
    return image


def _encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _scanned(seed: int) -> Image.Image:
    """Grey paper with noise, a little turned."""
    scan = page(seed, paper=(222, 218, 205)).rotate(1.5, fillcolor=(210, 206, 196))
    noise = Image.effect_noise(scan.size, 18).convert("RGB")
    return Image.blend(scan, noise, 0.15)


_MAKERS: dict[str, Callable[[], bytes]] = {
    "a4": lambda: _encode(page(1)),
    "letter": lambda: _encode(page(2, LETTER), "JPEG", quality=90),
    "landscape": lambda: _encode(page(3, (1100, 700), lines=20)),
    "wide landscape": lambda: _encode(page(4, (1600, 500), lines=10)),
    "square": lambda: _encode(page(5, (800, 800), lines=25)),
    "small": lambda: _encode(page(6, (300, 420), margin=0.05, lines=14)),
    "large": lambda: _encode(page(7, (2480, 3508), lines=90), "JPEG", quality=80),
    "no margin": lambda: _encode(page(8, margin=0)),
    "wide margins": lambda: _encode(page(9, margin=0.35, lines=20)),
    "two columns": lambda: _encode(page(10, columns=2)),
    "few lines": lambda: _encode(page(11, lines=3)),
    "strip": lambda: _encode(page(12, (200, 1400), margin=0.02, lines=60)),
    "dark": lambda: _encode(page(13, ink=(235, 235, 235), paper=(25, 25, 30))),
    "pale": lambda: _encode(page(14, ink=(170, 170, 170), paper=(200, 200, 200))),
    "coloured": lambda: _encode(page(15, ink=(180, 30, 40), paper=(250, 250, 210)), "WEBP", quality=85),
    "grey": lambda: _encode(ImageOps.grayscale(page(16)), "JPEG", quality=85),
    "one bit": lambda: _encode(page(17).convert("1")),
    "scan": lambda: _encode(_scanned(18), "JPEG", quality=85),
    "transparent": lambda: _encode(_transparent()),
    "turned": lambda: _encode(page(20).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=_turned_exif()),
    "photo": lambda: photos.encoded("china"),
    "blank": lambda: _encode(Image.new("RGB", A4, PAPER)),
}


def _transparent() -> Image.Image:
    image = page(19).convert("RGBA")
    image.putalpha(ImageOps.invert(image.convert("L")))
    return image


def _turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[photos.EXIF_ORIENTATION] = 6
    return exif


def names() -> list[str]:
    return list(_MAKERS)


@cache
def encoded(name: str) -> bytes:
    """The file `name`: PNG, JPEG or WebP."""
    return _MAKERS[name]()


@cache
def pdf(pages: int = 3) -> bytes:
    """A PDF of A4 pages, each a picture of text."""
    drawn = [page(100 + number, A4) for number in range(pages)]
    return _encode(drawn[0], "PDF", save_all=True, append_images=drawn[1:], resolution=100.0)
