"""Deplot's oracle can tell right from wrong; which patches exist follows from the size of chart and question."""

from __future__ import annotations

from functools import cache
from math import sqrt
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import ImageFont

from generator.oracle.deplot import DeplotOracle
from tests import charts, checkpoints
from tests.truth import oracle_checks

QUESTION = charts.QUESTIONS[0]


@cache
def oracle() -> DeplotOracle:
    font = Path(mkdtemp()) / "free.ttf"
    font.write_bytes(charts.font_bytes())
    return DeplotOracle(checkpoints.cached("deplot"), font)


def answer(pixels: NDArray[np.float16]) -> list[int]:
    return oracle().continuation([oracle().start_id or 0], oracle().rows(pixels), oracle_checks.NEW_TOKENS)


def page(width: int, height: int, text: str) -> tuple[int, int]:
    """(width, height) of a chart below its question, drawn in lines of 80 characters at most, 5 px around them."""
    assert len(text) <= 80
    right, bottom = ImageFont.truetype(oracle().font, 36).getbbox(text)[2:]
    header = int(right) + 10, int(bottom) + 10
    wide = max(header[0], width)
    return wide, int(height * (wide / width)) + int(header[1] * (wide / header[0]))


@pytest.mark.parametrize("number", range(10))
def test_patches_that_exist(number: int) -> None:
    width, height = page(*charts.SIZES[number], QUESTION)
    scale = sqrt(2048 * (16 / height) * (16 / width))
    lines, columns = int(scale * height / 16), int(scale * width / 16)
    pixels = oracle().pixels([charts.encoded(number)], QUESTION)[0]
    numbered = [(line, column) for line in range(1, lines + 1) for column in range(1, columns + 1)]
    assert pixels[: len(numbered), :2].tolist() == [list(pair) for pair in numbered]
    assert not pixels[len(numbered) :].any()
    mask = oracle().mask([charts.encoded(number)], QUESTION)
    assert mask.tolist() == [1.0] * len(numbered) + [0.0] * (2048 - len(numbered))
    values = pixels[: len(numbered), 2:].astype(np.float64)
    assert abs(values.mean()) < 0.1 and 0.7 < values.std() < 1.1  # standardized before it was scaled


def test_answers_are_distinct() -> None:
    answers = [
        oracle().generate(charts.question(i) or QUESTION, [charts.encoded(i)], oracle_checks.NEW_TOKENS)
        for i in range(charts.COUNT)
    ]
    assert len({text for _, text in answers}) >= 0.9 * len(answers)
    assert sum(len(set(ids)) > 2 for ids, _ in answers) >= 0.9 * len(answers)


@pytest.mark.parametrize("number", [0, 2])
def test_mutations_change_the_text(number: int) -> None:
    chart = [charts.encoded(number)]
    pixels = oracle().pixels(chart, QUESTION)
    right = answer(pixels)
    assert right == oracle().generate(QUESTION, chart, oracle_checks.NEW_TOKENS)[0]
    contrast = pixels[0, :, 2:].astype(np.float32).std(axis=-1)
    busy, plain = int(contrast.argmax()), int(contrast[: int(contrast.argmax())].argmin())
    swapped = pixels.copy()
    swapped[0, [busy, plain], 2:] = swapped[0, [plain, busy], 2:]
    moved = pixels.copy()
    moved[0, :, 0][moved[0, :, 0] > 0] += 1
    mutated = {
        "another chart": oracle().pixels([charts.encoded(number + 1)], QUESTION),
        "another question": oracle().pixels(chart, "Which year had the highest sales?"),
        "patches swapped": swapped,
        "lines counted from 2": moved,
    }
    assert [what for what, wrong in mutated.items() if answer(wrong) == right] == []
    patches, rows = torch.tensor(pixels), oracle().rows(pixels)
    with torch.inference_mode():
        padded = oracle().model.encoder(patches, (patches != 0).any(dim=-1).float()).last_hidden_state.numpy()
    assert padded.shape[1] == 2048 > rows.shape[1]
    assert oracle().continuation([0], padded, oracle_checks.NEW_TOKENS) != right, "rows of no patch attended to"
    assert oracle().continuation([5], rows, oracle_checks.NEW_TOKENS) != right, "another start token"


def test_vision_module() -> None:
    tower = oracle_checks.vision_module("hf_pix2struct").load(str(checkpoints.cached("deplot")), torch.float16).eval()
    for number in (0, 6, 9):
        pixels = oracle().pixels([charts.encoded(number)], QUESTION)
        with torch.inference_mode():
            rows = tower(torch.from_numpy(pixels)).numpy()
        truth = oracle().rows(pixels)
        assert rows.dtype == np.float16 and rows.shape == (1, 2048, truth.shape[2])
        np.testing.assert_array_equal(rows[:, : truth.shape[1]], truth)


def test_published_names_of_weights_are_understood() -> None:
    checkpoint = checkpoints.cached("deplot")
    oracle_checks.assert_published_names_are_understood(transformers.Pix2StructForConditionalGeneration, checkpoint)
