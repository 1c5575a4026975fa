"""Pages of a PDF as pictures, for models that read one page per request."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from generator.server import ServerError

DOTS_PER_INCH = 96  # as Nougat's authors draw pages for it (facebookresearch/nougat, rasterize.py)
POINTS_PER_INCH = 72
BAR = 30


def pages(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number of pages, PNG file) of each page in order; one page is drawn at a time.

    Raises ServerError when pypdfium2 or Pillow is missing, or the file cannot be read or is no PDF.
    """
    try:
        import PIL.Image  # noqa: F401 - pypdfium2 draws without it, but does not write files
        import pypdfium2
    except ImportError as error:
        what = f"PDFs need the Python package {error.name}, which is not installed"
        raise ServerError(what, "pip install 'gen-repo[pdf]'") from None
    try:
        document = pypdfium2.PdfDocument(file.read_bytes())
    except OSError as error:
        raise ServerError(f"cannot read {file}: {error.strerror}", "give the path of a PDF file") from error
    except pypdfium2.PdfiumError as error:
        raise ServerError(f"{file} cannot be opened as a PDF: {error}", "give a PDF file without a password") from error
    with document:
        for page in document:
            buffer = BytesIO()
            page.render(scale=DOTS_PER_INCH / POINTS_PER_INCH).to_pil().save(buffer, "PNG")
            page.close()
            yield len(document), buffer.getvalue()


def show_progress(done: int, total: int) -> None:
    """A bar on the standard error output, if that is a terminal."""
    filled = BAR * done // total
    _show(f"[{'#' * filled}{'.' * (BAR - filled)}] {done} of {total} pages")


def clear_progress() -> None:
    """Take the bar away, so that text can stand in its line."""
    _show("")


def _show(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()
