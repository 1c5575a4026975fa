"""How the step's time grows: with the pixels of an image, the images of a request, and the length of the prompt.

The whole step answers, through `execute`, over a stand-in for Triton's Python interface; its tokenizer is one that was
trained on the spot. Exponents are fitted by least squares on logarithms: 1 is linear.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.preprocessing import sides
from benchmarks.preprocessing.pictures import file

PIXELS = ((640, 480), (1280, 960), (2560, 1920), (4032, 3024))
IMAGES = (1, 2, 4, 8)
WORDS = (2_000, 8_000, 32_000, 128_000)  # fewer would measure what any request costs
SENTENCE = ["which", "city", "is", "shown", "in", "the", "picture", "behind", "the", "dog", "and", "the", "street"]
ROWS = 576


def measure(repetitions: int) -> dict[str, dict[str, Any]]:
    """{what grows: sizes, medians in ms, exponent}."""
    sides.use_the_step()
    from tests.unit import serving  # needs the step's modules

    limits = {
        "max_images": max(IMAGES),
        "max_input_len": 1 << 22,
        "max_seq_len": 1 << 23,
        "max_table_rows": ROWS * max(IMAGES),
        "max_image_bytes": 1 << 26,
        "max_image_pixels": 1 << 26,
    }
    settings = serving.settings(limits=limits) | {"rows_per_image": ROWS}
    with tempfile.TemporaryDirectory() as folder:
        step = serving.load_step("preprocessing", Path(folder), settings)

        def request(words: int, *size: int, images: int = 1) -> Callable[[], Any]:
            text = " ".join(SENTENCE[number % len(SENTENCE)] for number in range(words))
            inputs: dict[str, Any] = {"text_input": serving.texts(text)}
            if size:
                inputs["image_encoded_input"] = serving.words([file((size[0], size[1]))] * images)
            return lambda: serving.run(step, **inputs)

        return {
            "pixels of an image": _fitted(
                [width * height for width, height in PIXELS], [request(10, *size) for size in PIXELS], repetitions
            ),
            "images of a request": _fitted(
                IMAGES, [request(10, 1280, 960, images=count) for count in IMAGES], repetitions
            ),
            "words of a prompt": _fitted(WORDS, [request(count) for count in WORDS], repetitions),
        }


def _fitted(at: Sequence[int], runs: Sequence[Callable[[], Any]], repetitions: int) -> dict[str, Any]:
    def timed(run: Callable[[], Any]) -> Callable[[], float]:
        def once() -> float:
            begin = time.perf_counter()
            run()
            return (time.perf_counter() - begin) * 1e3

        return once

    for run in runs:
        run()
    found = common.interleaved({str(size): timed(run) for size, run in zip(at, runs, strict=True)}, repetitions)
    medians = [common.median(found[str(size)]) for size in at]
    exponent = float(np.polyfit(np.log(at), np.log(medians), 1)[0])
    return {"at": list(at), "ms": [round(value, 2) for value in medians], "exponent": round(exponent, 3)}
