"""Hostile files, addresses and texts against the preprocessing step, and a little fuzzing of every path."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from images import ImageReader
from media import Source
from PIL import Image, ImageOps

from tests import hostile
from tests.fuzz.mutate import numbers, spoiled
from tests.fuzz.run import paths, tried
from tests.unit import serving
from tests.unit.serving import RequestFailed, refusal, run, words

INPUTS = int(os.environ.get("FUZZ_INPUTS", "200"))
SLOW = {"nemo": 4, "engine": 2, "tokenizer": 2, "check": 20}  # how many times longer an input of these takes


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Any:
    limits = {"max_image_bytes": 32 << 20, "max_image_pixels": 1 << 24}
    folder = tmp_path_factory.mktemp("pre")
    return serving.load_step("preprocessing", folder, serving.settings(limits=limits))


@pytest.mark.parametrize("name", hostile.refused())
def test_hostile_files_are_refused_for_what_they_are(step: Any, name: str) -> None:
    content, pattern = hostile.refused()[name]
    started = time.monotonic()
    got = refusal(step, image_encoded_input=words([hostile.encoded("PNG"), content]))
    assert re.search(pattern, got), got
    if pattern != hostile.ELONGATED:  # which shows when all of a request are drawn
        assert got.startswith("image 1 in image_encoded_input: "), got
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("name", hostile.odd())
def test_odd_files_are_decoded_like_any_other(name: str) -> None:
    content = hostile.odd()[name]
    read = ImageReader(serving.settings(limits={"max_image_bytes": 1 << 20})["limits"], [])
    expected = ImageOps.exif_transpose(Image.open(BytesIO(content))).convert("RGB")
    np.testing.assert_array_equal(
        np.asarray(read(Source("image_encoded_input", "image 0", content))), np.asarray(expected)
    )


@pytest.mark.parametrize("value", hostile.addresses(), ids=range(len(hostile.addresses())))
def test_hostile_addresses_are_refused_for_what_they_are(step: Any, value: bytes) -> None:
    got = refusal(step, image_url_input=words([value]))
    assert re.search(hostile.addresses()[value], got) and len(got) < 300, got


@pytest.mark.parametrize("name", hostile.texts())
def test_odd_texts_are_answered_or_refused(step: Any, name: str) -> None:
    started = time.monotonic()
    try:
        made = run(step, text_input=words([hostile.texts()[name]]))
    except RequestFailed as failure:
        assert "internal" not in str(failure) and len(str(failure)) < 300
    else:
        ids = made["input_ids"]
        assert ids.min() >= 0 and ids.max() < serving.VOCAB_SIZE
    assert time.monotonic() - started < 2


def test_inputs_follow_from_their_number() -> None:
    seeds = [hostile.encoded(kind) for kind in hostile.KINDS]
    made = [spoiled(numbers("image", number), seeds) for number in range(200)]
    assert made == [spoiled(numbers("image", number), seeds) for number in range(200)]
    assert len(set(made)) > 190


@pytest.mark.parametrize("path", paths())
def test_no_input_crashes_a_path(path: str) -> None:
    """The same few inputs each time; `make fuzz` tries as many as one has time for."""
    report = tried(path, 0, max(1, INPUTS // SLOW.get(path, 1)), seconds=600)
    assert report.sound, f"{report}\n{report.crashes[:1]}"
    assert report.ends.get("answered", 0) > 0, report
    assert report.ends.get("refused", 0) > 0 or path == "answer", report


def test_what_is_quoted_of_a_request_is_printable(step: Any) -> None:
    got = refusal(step, image_url_input=words([b"http://a\0\n\x1b[31m"]))
    assert got.isprintable() and "malformed: send https://HOST/PATH" in got
    got = refusal(step, bad_words=words([b"a\0\n"]), embedding_bias_words=words([b"\0\n"]))
    assert got.isprintable()
