"""Image inputs: all ways to send one give the same pixels, and bad ones are refused clearly."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from images import ENCODED, ImageReader, Source
from PIL import Image, ImageOps
from tensors import RequestError

from tests.unit import serving
from tests.unit.serving import data_uri, file, picture, refusal, run, texts, words

READ = ImageReader(serving.settings()["limits"], [])


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pre")
    return serving.load_step("preprocessing", folder, serving.settings(pixels=serving.SMALL_PIXELS))


def test_all_image_inputs_give_the_same_pixels(step: Any) -> None:
    array = np.asarray(picture(4))
    ways = {
        "image_encoded_input": words([file(4)]),
        "image_url_input": words([data_uri(file(4))]),
        "image_bytes_input": array[None, None],
    }
    results = [run(step, text_input=texts("a"), **{name: value}) for name, value in ways.items()]
    results.append(run(step, text_input=texts("a"), image_bytes_input=array.transpose(2, 0, 1)[None, None]))
    pixels = results[0]["pixel_values"]
    results.append(run(step, text_input=texts("a"), image_input=pixels))
    results.append(run(step, text_input=texts("a"), image_input=pixels[:, 0]))  # releases up to 0.14
    for result in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(result[name], value, err_msg=name)
    other = run(step, text_input=texts("a"), image_encoded_input=words([file(5)]))
    assert (other["prompt_table_extra_ids"] != results[0]["prompt_table_extra_ids"]).any()


def test_no_image_holds_on_to_its_decoder() -> None:
    """A WebP's has two copies of the picture, which would be kept for every image of a request."""
    for kind in ("PNG", "JPEG", "WEBP"):
        image = READ(Source("image_encoded_input", "image", serving.file(kind=kind)))
        assert image.mode == "RGB" and getattr(image, "_decoder", None) is None, kind


def test_three_by_three_arrays_are_rows_of_pixels(step: Any) -> None:
    array = np.random.default_rng(1).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    decoded = run(step, text_input=texts("a"), image_encoded_input=words([stream.getvalue()]))
    raw = run(step, text_input=texts("a"), image_bytes_input=array[None, None])
    np.testing.assert_array_equal(raw["pixel_values"], decoded["pixel_values"])


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that announces any size, in 60 bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def gif() -> bytes:
    stream = BytesIO()
    picture().save(stream, "GIF")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an image", "not a readable JPEG, PNG or WebP file"),
        (gif(), "not a readable JPEG, PNG or WebP file"),
        (b"\x89PNG\r\n\x1a\n", "not a readable JPEG, PNG or WebP file"),
        (file(kind="PNG")[:-60], "truncated or damaged"),
        (file(kind="JPEG", width=200, height=200)[:-2000], "truncated or damaged"),
        (file(kind="WEBP", width=200, height=200)[:-2000], "truncated or damaged|not a readable"),
        (png_of_size(5000, 5000), "5000x5000 pixels, allowed are 16777216"),
        (png_of_size(60000, 60000), "3600000000 pixels, allowed are 16777216"),
        (png_of_size(100, 100), "truncated or damaged"),
        (b"\xff" * (1 << 21), "the file has 2097152 bytes, allowed are 1048576"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_files(step: Any, content: bytes, message: str) -> None:
    got = refusal(step, text_input=texts("a"), image_encoded_input=words([file(), content]))
    assert got.startswith("image 1 in image_encoded_input: ") and re.search(message, got), got


@pytest.mark.filterwarnings("ignore::UserWarning")
@hypothesis_settings(deadline=None, max_examples=150)
@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.data())
def test_damaged_files_give_an_image_or_a_clear_error(kind: str, data: st.DataObject) -> None:
    content = bytearray(file(kind=kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert READ._decode(bytes(content)).mode == "RGB"
    except RequestError as error:
        assert ": " in str(error)


@given(st.binary(min_size=1, max_size=60), st.sampled_from(["", "\n", " \r\n", "\t"]), st.integers(1, 20))
def test_data_uris_hold_their_bytes(content: bytes, space: str, every: int) -> None:
    for header in (
        b"data:image/jpeg;base64",
        b"DATA:image/WebP;name=a.webp;BASE64",
        b"data:image/png ; base64",
    ):
        encoded = base64.b64encode(content).decode()
        spaced = space.join(encoded[start : start + every] for start in range(0, len(encoded), every))
        assert READ._file_at(header + b"," + spaced.encode()) == content


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"data:image/jpeg;base64,_-8=", "URL-safe base64"),
        (b"data:image/jpeg;base64,abc", "not valid base64"),
        (b"data:image/jpeg;base64,ab*d", "not valid base64"),
        (b"data:image/jpeg,abcd", "the data URI is not base64"),
        (b"data:image/jpeg;base64", "the data URI is not base64"),
        (b"data:image/svg+xml;base64,abcd", "holds 'image/svg+xml'"),
        (b"data:image/png;base64,", "not a readable JPEG, PNG or WebP file"),
        (b"data:image/png;base64," + b"A" * 1_400_000, "1050000 bytes, allowed are 1048576"),
        (b"iVBORw0KGgo=", "neither a data URI nor an http"),
        (b"file:///etc/passwd", "neither a data URI nor an http"),
        (b"/etc/passwd", "neither a data URI nor an http"),
        (b"\xff\xfe", "neither a data URI nor an http"),
        (b"http://\xff", "not valid UTF-8"),
        (b"https://example.com/a.png", "https://example.com:443 is not among the image hosts"),
        (b"https:///a.png", "malformed"),
        (b"https://a:b@example.com/a.png", "user name or password"),
        (b"https://example.com:99999/a.png", "malformed"),
        (b"https://[::1/a.png", "malformed"),
    ],
)
def test_bad_image_urls(step: Any, value: bytes, message: str) -> None:
    got = refusal(step, image_url_input=words([value]))
    assert got.startswith("image 0 in image_url_input: ") and message in got, got
    assert len(got) < 300


@pytest.mark.parametrize(
    ("size", "edge", "decoded"),
    [
        ((2000, 1000), 336, (1000, 500)),
        ((4001, 3001), 336, (501, 376)),
        ((400, 4000), 336, (400, 4000)),  # the short side decides
        ((671, 672), 336, (671, 672)),
        ((672, 672), 336, (336, 336)),
        ((2000, 1000), None, (2000, 1000)),
    ],
)
def test_jpegs_are_decoded_no_larger_than_needed(
    size: tuple[int, int], edge: int | None, decoded: tuple[int, int]
) -> None:
    read = ImageReader(serving.settings()["limits"] | {"max_image_bytes": 1 << 25}, [], edge)
    photo = picture(3, 8, 6).resize(size)
    for turned in (False, True):
        exif = Image.Exif()
        exif[0x0112] = 6 if turned else 1
        stream = BytesIO()
        photo.save(stream, "JPEG", exif=exif)
        image = read(Source(ENCODED, "image 0", stream.getvalue()))
        assert image.size == (decoded[::-1] if turned else decoded)
        whole = ImageOps.exif_transpose(Image.open(BytesIO(stream.getvalue()))).resize(image.size)
        assert np.abs(np.asarray(image, dtype=np.int16) - np.asarray(whole)).mean() < 1
    stream = BytesIO()
    photo.save(stream, "PNG")
    assert read(Source(ENCODED, "image 0", stream.getvalue())).size == size
