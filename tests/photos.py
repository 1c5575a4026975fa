"""Real photographs for tests, in the shapes, colour modes and file formats that clients send.

The pictures ship inside the wheels of scikit-image and scikit-learn, so nothing is downloaded. Every entry of
`_MAKERS` derives one file from them; a new case is one function and one line.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image

EXIF_ORIENTATION = 0x0112


def _folder(package: str, inside: str) -> Path:
    """Folder of a package's data, found without importing the package."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(f"{package} is not installed: tests take their photographs from its wheel")
    return Path(found.submodule_search_locations[0], inside)


def _file(name: str) -> Path:
    shipped_by_scikit_learn = name in ("china.jpg", "flower.jpg")
    folder = _folder("sklearn", "datasets/images") if shipped_by_scikit_learn else _folder("skimage", "data")
    return folder / name


def _open(name: str) -> Image.Image:
    image = Image.open(_file(name))
    image.load()
    return image


def _encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    image.info.clear()  # colour profiles and text chunks of the source are not what a case is about
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _large() -> bytes:
    """Twelve megapixels, as a telephone sends them."""
    return _encode(_open("retina.jpg").resize((4032, 3024), Image.Resampling.BICUBIC), "JPEG", quality=85)


def _rgba() -> bytes:
    """Alpha runs from 0 to 255 over the picture, which finds out a decoder that blends it."""
    image = _open("astronaut.png")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return _encode(image, "PNG")


def _grey_alpha() -> bytes:
    image = _open("coins.png")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return _encode(image, "PNG")


def _palette() -> bytes:
    return _encode(_open("chelsea.png").quantize(64), "PNG", transparency=0)


def _rotated() -> bytes:
    """Orientation 6: shown upright after a quarter turn, which swaps width and height."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    return _encode(_open("rocket.jpg").crop((0, 0, 640, 400)), "JPEG", quality=90, exif=exif)


def _animated() -> bytes:
    """Three frames; only the first counts."""
    frames = [_open(name).convert("RGB").resize((160, 120)) for name in ("coffee.png", "china.jpg", "flower.jpg")]
    return _encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


_MAKERS: dict[str, Callable[[], bytes]] = {
    "china": lambda: _file("china.jpg").read_bytes(),  # 640x427 JPEG, as shipped
    "flower": lambda: _file("flower.jpg").read_bytes(),  # 640x427 JPEG, as shipped
    "chelsea": lambda: _file("chelsea.png").read_bytes(),  # 451x300 PNG, as shipped
    "astronaut": lambda: _file("astronaut.png").read_bytes(),  # 512x512 PNG, square
    "coffee": lambda: _encode(_open("coffee.png"), "WEBP", quality=80),  # 600x400
    "motorcycle": lambda: _encode(_open("motorcycle_left.png"), "JPEG", quality=75, progressive=True),  # 741x500
    "hubble": lambda: _encode(_open("hubble_deep_field.jpg"), "WEBP", lossless=True),  # 1000x872
    "wide": lambda: _encode(_open("china.jpg").crop((0, 200, 640, 237)), "JPEG", quality=95, subsampling=0),  # 640x37
    "tall": lambda: _encode(_open("rocket.jpg").crop((300, 0, 343, 427)), "PNG"),  # 43x427
    "tiny": lambda: _encode(_open("astronaut.png").resize((7, 5)), "PNG"),
    "pixel": lambda: _encode(_open("flower.jpg").resize((1, 1)), "PNG"),
    "large": _large,  # 4032x3024
    "grey": lambda: _encode(_open("camera.png"), "JPEG", quality=85),  # 512x512, mode L
    "grey_alpha": _grey_alpha,  # 384x303, mode LA
    "rgba": _rgba,  # 512x512
    "cmyk": lambda: _encode(_open("coffee.png").convert("CMYK"), "JPEG", quality=90),  # 600x400
    "palette": _palette,  # 451x300, mode P with a transparent colour
    "bilevel": lambda: _encode(_open("page.png").convert("1"), "PNG"),  # 384x191, mode 1
    "rotated": _rotated,  # stored 640x400, shown 400x640
    "animated": _animated,  # 160x120
}


def names() -> list[str]:
    """Names of all photographs; the first seven are plain colour pictures of unremarkable size."""
    return list(_MAKERS)


@cache
def encoded(name: str) -> bytes:
    """Bytes of the JPEG, PNG or WebP file called `name`. KeyError for a name not in `names()`."""
    return _MAKERS[name]()


PROMPTS: tuple[str, ...] = (
    "What is in this picture?",
    "Describe the image.",
    "How many people are there?",
    "Question: which city is this? Answer:",
    "Why?",
    "1 2 3 4 5 6 7 8 9 10",
    "What is 12345 + 67890?",
    " leading space",
    "trailing space ",
    "double  spaces   inside    the text",
    "line one\nline two\n\nline four",
    "\nstarts with a newline",
    "tab\tseparated\tvalues",
    "¿Qué hay en la fotografía? ¡Descríbela!",
    "Was ist größer, schöner und älter als der Fluß?",
    "Что изображено на этой фотографии?",
    "この写真には何が写っていますか。",
    "请描述这张照片里的建筑物。",
    "이 사진에는 무엇이 있습니까?",
    "صف هذه الصورة من فضلك",
    "Is this a 🚀 or a 🏯? 😀👩‍👩‍👧‍👦",
    "x",
    "ALL CAPITAL LETTERS, PLEASE!",
    "def f(x):\n    return {'a': [x ** 2, x // 3]}  # code",
    '{"task": "caption", "max_words": 20, "language": "en"}',
    "<b>bold</b> & <i>italic</i> — “quoted” … 50 % off",
    "e\u0301 is not \u00e9; \u00a0no-break\u200bspace",
    "C:\\temp\\new\\file.txt and /usr/share/doc",
    (
        "Look carefully at the picture. First list every object that you can see, from left to right, with "
        "its colour. Then say which of them are made by people and which are not. Finally write one sentence "
        "that sums up the scene."
    ),
    "Please " + "really " * 60 + "describe it.",
)
"""Thirty questions: short, long, several scripts, emoji, newlines, odd spaces, digits, code."""
