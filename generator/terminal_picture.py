"""A picture in a terminal that shows all colours: two pixels a character, the upper half in the text's colour."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 48
UPPER_HALF = "▀"
RESET = "\x1b[0m"


def shows_colours() -> bool:
    """Whether our output is a terminal that says it knows 24-bit colours."""
    return sys.stdout.isatty() and os.environ.get("COLORTERM") in ("truecolor", "24bit")


def blocks(picture: Image, columns: int) -> str:
    """`picture` as lines of `columns` characters, in ANSI escape sequences; its shape is kept."""
    rows = max(1, round(columns * picture.height / picture.width / 2))
    small = picture.convert("RGB").resize((columns, 2 * rows))
    pixels = small.load()
    if pixels is None:
        raise ValueError("the picture holds no pixels")
    lines = []
    for y in range(0, 2 * rows, 2):
        cells = []
        for x in range(columns):
            upper, lower = (";".join(map(str, pixels[x, y + half])) for half in (0, 1))  # type: ignore[arg-type]
            cells.append(f"\x1b[38;2;{upper}m\x1b[48;2;{lower}m{UPPER_HALF}")
        lines.append("".join(cells) + RESET)
    return "\n".join(lines)


def show(file: Path) -> None:
    """Print the picture if the terminal can show it, and where it lies."""
    if shows_colours():
        from PIL import Image

        with Image.open(file) as picture:
            print(blocks(picture, min(COLUMNS, shutil.get_terminal_size().columns)))
    print(file)
