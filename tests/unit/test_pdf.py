"""PDFs by the client: pages in order and size, a bar where somebody looks, and errors with a remedy."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from generator import ask, pdf
from generator.cli import main
from generator.findings import EXIT_ENVIRONMENT
from generator.server import ServerError
from tests import pages


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "three.pdf"
    made.write_bytes(pages.pdf(3))
    return made


def test_pages_in_order_at_96_dots_per_inch(file: Path) -> None:
    """Drawn at 100 dots per inch, they come back at 96, and look like the right page only."""
    found = list(pdf.pages(file))
    assert [total for total, _ in found] == [3, 3, 3]
    for number, (_, content) in enumerate(found):
        picture = Image.open(io.BytesIO(content))
        assert (picture.format, picture.size) == ("PNG", (794, 1123))
        distances = [_distance(picture, pages.page(100 + other, pages.A4)) for other in range(3)]
        assert min(distances) == distances[number]


def _distance(one: Image.Image, other: Image.Image) -> float:
    histogram = ImageChops.difference(one.convert("L"), other.resize(one.size).convert("L")).histogram()
    return sum(level * count for level, count in enumerate(histogram))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot read"), (b"this is no PDF", "cannot be opened as a PDF"), (b"", "cannot be opened as a PDF")],
)
def test_files_that_are_none(content: bytes | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.pdf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ServerError, match=words) as raised:
        list(pdf.pages(file))
    assert str(file) in raised.value.message and "PDF" in raised.value.remedy


def test_without_the_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(ServerError, match="pypdfium2, which is not installed") as raised:
        list(pdf.pages(file))
    assert raised.value.remedy == "pip install 'gen-repo[pdf]'"


class Terminal(io.StringIO):
    def __init__(self, is_one: bool) -> None:
        super().__init__()
        self.is_one = is_one

    def isatty(self) -> bool:
        return self.is_one


@pytest.mark.parametrize("is_one", [True, False])
def test_a_bar_on_terminals_only(is_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(is_one)
    monkeypatch.setattr(sys, "stderr", terminal)
    pdf.show_progress(0, 4)
    pdf.show_progress(2, 4)
    pdf.clear_progress()
    shown = terminal.getvalue().split("\r\033[K")
    half = f"[{'#' * 15}{'.' * 15}] 2 of 4 pages"
    assert shown == (["", f"[{'.' * 30}] 0 of 4 pages", half, ""] if is_one else [""])


def test_only_the_text_streams() -> None:
    with pytest.raises(ServerError, match="only text_output comes in pieces, not markdown"):
        list(ask.ask("localhost:1", "ensemble", None, [], output="markdown", stream=True))


def test_the_command_line_reports(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--url", "localhost:1", "--pdf", str(file)]) == EXIT_ENVIRONMENT
    assert "no Triton server answers at localhost:1" in capsys.readouterr().err
