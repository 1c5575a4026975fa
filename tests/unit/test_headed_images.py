"""Text above an image: every pixel equals transformers' for the same font file; what is too large is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import headed_images
import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from images import ENCODED, ImageReader
from media import Source
from PIL import features
from tensors import RequestError
from transformers.models.pix2struct.image_processing_pil_pix2struct import Pix2StructImageProcessorPil

from generator.oracle.deplot import font_found
from tests import charts, photos
from tests.unit import serving

SIZES = [(600, 850), (1400, 90), (33, 400), (1, 1), (2000, 1500)]
HOSTLESS = serving.settings()["limits"] | {"max_image_bytes": 1 << 24}


@pytest.fixture(scope="module")
def font(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("font") / "free.ttf"
    file.write_bytes(charts.font_bytes())
    return file


def reader(font: Path) -> headed_images.HeadedReader:
    return headed_images.HeadedReader(ImageReader(HOSTLESS, []), font, charts.QUESTIONS[0])


def asked(content: bytes, text: str) -> Source:
    return Source(ENCODED, "image 0", headed_images.Headed(Source(ENCODED, "image 0", content), text))


def assert_equal_to_transformers(font: Path, width: int, height: int, text: str) -> None:
    picture = serving.picture(3, width, height)
    with font_found(font):
        theirs = Pix2StructImageProcessorPil().render_header(np.asarray(picture).transpose(2, 0, 1), text)
    ours = np.asarray(reader(font)(asked(charts.file_of(picture, "PNG"), text)))
    np.testing.assert_array_equal(ours, theirs.transpose(1, 2, 0))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("text", [*charts.QUESTIONS[2:], "x", "two\nlines\t and  spaces "])
def test_sizes(font: Path, size: tuple[int, int], text: str) -> None:
    assert_equal_to_transformers(font, *size, text)


@pytest.mark.parametrize("text", photos.PROMPTS)
def test_questions(font: Path, text: str) -> None:
    assert_equal_to_transformers(font, 300, 200, text)


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=300).filter(lambda text: text.strip()))
def test_any_text(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "any.ttf"
    if not file.is_file():
        file.write_bytes(charts.font_bytes())
    try:
        assert_equal_to_transformers(file, 120, 80, text)
    except RuntimeError:  # transformers cannot draw it either
        with pytest.raises(RequestError, match="cannot be drawn"):
            reader(file)(asked(charts.encoded(0), text))


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_nothing_to_draw_means_the_default(font: Path, text: str) -> None:
    read, chart = reader(font), charts.encoded(0)
    assert read(asked(chart, text)).tobytes() == read(asked(chart, charts.QUESTIONS[0])).tobytes()


def test_too_much_is_refused(font: Path) -> None:
    read = reader(font)
    with pytest.raises(RequestError, match=r"4001 characters, allowed are 4000"):
        read(asked(charts.encoded(0), "y" * 4001))
    sliver = charts.file_of(serving.picture(1, 1, 60000), "PNG")
    with pytest.raises(RequestError, match=r"image 0: 1x60000 pixels come to \d+x\d+ with the text .* allowed are \d+"):
        read(asked(sliver, charts.QUESTIONS[0]))
    if features.check("raqm"):  # Pillow's usual layout engine, which wants one paragraph
        with pytest.raises(RequestError, match="cannot be drawn: leave out its control characters"):
            read(asked(charts.encoded(0), "0\x85"))
    with pytest.raises(RequestError, match="not a readable"):
        read(asked(b"no image", "x"))


def test_without_font_it_refuses_to_load() -> None:
    settings_: Any = serving.settings(media={"font": "nowhere.ttf", "default_text": "x"})
    with pytest.raises(pb_utils.TritonModelException, match="--header-font FILE"):
        headed_images.reader(settings_)


def test_every_row_has_its_own_text() -> None:
    encoded = np.array([[charts.encoded(0)], [charts.encoded(1)]], dtype=object)
    request = serving.make_request(text_input=serving.texts("one", "two"), image_encoded_input=encoded)
    rows = headed_images.sources(request, "tiny", 2)
    assert [source.value.text for row in rows for source in row] == ["one", "two"]
