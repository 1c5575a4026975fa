"""Pixels that cross to the encoder as 8-bit levels give the answers that normalised pixels give, through a real Triton."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from generator.generate import generate
from generator.options import Options
from tests.parity.client import Case, ask, ask_all, floats, inputs, passed_on, refusal
from tests.parity.conftest import MAX_TOKENS, SUBJECTS, Served, cases
from tests.server.harness import triton

LEVELS = ("llava", "llava-next", "neva")  # one entry, tiles, bfloat16


@pytest.fixture(scope="module", params=LEVELS)
def levels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    subject = SUBJECTS[request.param]
    folder: Path = tmp_path_factory.mktemp("levels") / subject.model
    outcome = generate(
        Options(
            model=subject.model,
            hf_model_dir=subject.path,
            runtime="torch",
            output=folder,
            pixels="uint8",
            max_tokens=MAX_TOKENS,
        )
    )
    assert not outcome.failed, outcome.findings
    with triton(folder) as server:
        yield Served(subject, server, folder, subject.oracle(subject.path), cases(subject)[::2])


def test_levels_cross_and_rows_equal_bit_for_bit(levels: Served) -> None:
    settings = json.loads((levels.folder / "vision_encoder/1/settings.json").read_text())
    assert settings["image_shape"] == [*levels.settings["pixels"]["shape"]] and settings["image_shape"][-1] == 3
    with levels.client() as client:
        for case in [c for c in levels.cases if c.images][::4]:
            made = client.infer("preprocessing", inputs([case]))
            assert made.as_numpy("pixel_values").dtype == np.uint8
            step = [passed_on(made, name) for name in ("pixel_values", "num_images", "num_rows")]
            table = floats(client.infer("vision_encoder", step), "prompt_embedding_table")[0]
            ids = made.as_numpy("input_ids")[0]
            selected = table[ids[ids >= levels.vocab_size] - levels.vocab_size]
            truth = levels.oracle.selected(case.images)
            assert selected.shape == truth.shape and selected.tobytes() == truth.tobytes(), case.name


def test_text_equals(levels: Served) -> None:
    assert ask_all(levels.grpc, levels.cases, MAX_TOKENS, threads=4) == levels.expected


def test_pixels_that_a_client_normalised_are_refused(levels: Served) -> None:
    case = next(c for c in levels.cases if c.images)
    bare = Case(case.name, case.text)
    with InferenceServerClient(levels.grpc) as client:
        pixels = np.zeros((1, 1, 3, 336, 336), np.float16)
        assert "send image files" in refusal(client, "ensemble", inputs([bare], image_input=pixels))
        assert ask(client, case, MAX_TOKENS) == levels.expected[levels.cases.index(case)]
