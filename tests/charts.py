"""Charts drawn with Pillow: bars and lines, of all shapes and sizes, for models that read charts."""

from __future__ import annotations

from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COUNT = 20
SIZES = (
    (600, 850), (850, 600), (640, 480), (300, 300), (1200, 400), (400, 1000), (120, 90), (1600, 1100), (777, 555), (64, 700),
)  # fmt: skip
COLOURS = ("#4878cf", "#ee854a", "#6acc65", "#d65f5f", "#956cb4", "#8c613c")
FORMATS = ("PNG", "JPEG", "WEBP")
QUESTIONS = (
    "Generate underlying data table of the figure below:",
    "",  # which stands for the first
    "Which year had the highest sales?",
    "List every value of the chart, series by series, with the name of its category and its unit, then the title.",
    "¿Cuál es el valor más alto? Größe ≥ 10 µm",
)


def font_bytes() -> bytes:
    """A free TrueType font: the one that Pillow brings with it."""
    font = ImageFont.load_default(36)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return bytes(font.font_bytes)


def question(number: int) -> str:
    return QUESTIONS[number % len(QUESTIONS)]


@cache
def encoded(number: int) -> bytes:
    """The file of chart `number`; kinds, sizes, colours and formats take turns."""
    return file_of(drawn(number, *SIZES[number % len(SIZES)]), FORMATS[number % len(FORMATS)])


def file_of(image: Image.Image, file_format: str) -> bytes:
    stream = BytesIO()
    image.save(stream, file_format)
    return stream.getvalue()


def drawn(number: int, width: int, height: int) -> Image.Image:
    """A chart of `width` x `height` pixels, mode RGB."""
    numbers = np.random.default_rng(number)
    image = Image.new("RGB", (width, height), "white" if number % 4 else "#f0f0e8")
    draw = ImageDraw.Draw(image)
    left, right, top, bottom = width // 8, width - width // 20, height // 8, height - height // 8
    text = ImageFont.load_default(max(8, height // 30))
    draw.text((left, height // 40), f"Chart {number}: sales of {2000 + number}", fill="black", font=text)
    for step in range(5):
        y = bottom - (bottom - top) * step // 4
        draw.line([(left, y), (right, y)], fill="#cccccc")
        draw.text((2, y - height // 60), str(step * (number + 1) * 5), fill="black", font=text)
    draw.line([(left, top), (left, bottom), (right, bottom)], fill="black", width=2)
    places = 3 + number % 6
    for series in range(1 + number % 3):
        colour = COLOURS[(series + number) % len(COLOURS)]
        heights = (bottom - top) * numbers.uniform(0.1, 1, places)
        xs = left + (right - left) * (np.arange(places) + 0.5) / places
        points = [(float(x), float(bottom - h)) for x, h in zip(xs, heights, strict=True)]
        if (number + series) % 2:
            draw.line(points, fill=colour, width=max(1, height // 150))
        else:
            half = (right - left) / places / 5
            for x, y in points:
                draw.rectangle([x - half, y, x + half, bottom], fill=colour)
    for place in range(places):
        x = left + (right - left) * (place + 0.2) / places
        draw.text((x, bottom + 4), f"Q{place + 1}", fill="black", font=text)
    return image
