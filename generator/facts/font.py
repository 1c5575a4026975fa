"""The font that a model's questions are drawn with: a file of the user's, or one that lies in the checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from generator.findings import Refused, error

SUFFIXES = (".ttf", ".otf", ".ttc")
MAGIC = (b"\x00\x01\x00\x00", b"OTTO", b"ttcf", b"true")  # how TrueType and OpenType files begin
REMEDY = "give a TrueType or OpenType file; the model was trained with Arial"


@dataclass(frozen=True)
class FontFacts:
    path: Path
    content: bytes

    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def find(folder: Path) -> Path | None:
    """The first font file in `folder` by name, None when there is none."""
    return next((path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES), None)


def read(path: Path) -> FontFacts:
    """Reads a font file.

    Raises:
        Refused: it cannot be read, or is no font.
    """
    try:
        content = path.read_bytes()
    except OSError as problem:
        what = f"the font cannot be read: {problem.strerror or type(problem).__name__}"
        raise Refused(error("font-unreadable", what, path, REMEDY)) from None
    if not content.startswith(MAGIC):
        what = f"this is no font file, it begins with {content[:4]!r}"
        raise Refused(error("font-invalid", what, path, REMEDY))
    return FontFacts(path, content)
