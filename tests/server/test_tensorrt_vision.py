"""--vision-backend tensorrt on a real Triton: text only, one image and several, alone, together and in one request.

The stand-in's rows differ from torch's in their last bits, and greedy text may then differ. So rows are compared with
the oracle's, within a tolerance, and text exactly with what the oracle's LLM makes of the oracle's ids and those rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from generator.oracle import LlavaOracle, Oracle, VilaOracle
from generator.verify.command import Verify, run
from tests import photos
from tests.parity.client import MAX_TOKENS, Case, ask, ask_all, ask_stream, inputs, passed_on
from tests.server.harness import triton
from tests.server.tensorrt_vision import Asked, Engine, batches, repository

ORACLES: dict[str, Any] = {"llava": LlavaOracle, "vila": VilaOracle}
PLAIN = {"levels": Asked("llava", pixels="uint8"), "several images": Asked("vila", max_images=2)}
STREAMING = {
    "several images": Asked("vila", max_images=2, streaming=True),
    "engine of images": Asked("llava", streaming=True, requests=False),
}


@dataclass
class Served:
    asked: Asked
    url: str
    folder: Path

    @cached_property
    def oracle(self) -> Oracle:
        made: Oracle = ORACLES[self.asked.model](self.asked.checkpoint)
        return made

    @cached_property
    def cases(self) -> list[Case]:
        """Some prompts with each number of images, text alone included."""
        names = photos.names()
        return [
            Case(f"{count}: {text[:20]}", text, tuple(photos.encoded(names[3 * i + k]) for k in range(count)))
            for i, text in enumerate(photos.PROMPTS[:4])
            for count in range(self.asked.max_images + 1)
        ]

    @cached_property
    def rows(self) -> list[Any]:
        """Of the images of each case, as the engine gives them alone; None for text alone."""
        engine = Engine(self.asked, self.folder)
        return [engine.rows(self._pixels(case)) if case.images else None for case in self.cases]

    def _pixels(self, case: Case) -> Any:
        if self.asked.pixels == "float":
            return self.oracle.pixels(case.images)
        with InferenceServerClient(self.url) as client:
            return client.infer("preprocessing", inputs([case])).as_numpy("pixel_values")[0]

    @cached_property
    def expected(self) -> list[str]:
        return [
            self.oracle.text(
                self.oracle.continuation(
                    self.oracle.ids(case.text, case.images), None if rows is None else rows[None], MAX_TOKENS
                )
            )
            for case, rows in zip(self.cases, self.rows, strict=True)
        ]


def served(asked: Asked, folder: Path) -> Iterator[Served]:
    made = repository(asked, folder)
    with triton(made) as server:
        yield Served(asked, server.grpc, made)


@pytest.fixture(scope="module", params=PLAIN)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from served(PLAIN[request.param], tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module", params=STREAMING)
def streaming(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from served(STREAMING[request.param], tmp_path_factory.mktemp("streaming"))


def test_rows_are_the_oracles(plain: Served) -> None:
    for case, rows in zip(plain.cases, plain.rows, strict=True):
        if rows is not None:
            truth = plain.oracle.selected(case.images).astype(np.float32)
            assert rows.shape == truth.shape
            assert np.linalg.norm(rows - truth) < 0.005 * np.linalg.norm(truth), case.name
    assert len(set(plain.expected)) == len(plain.cases)


def test_text_asked_singly(plain: Served) -> None:
    with InferenceServerClient(plain.url) as client:
        for case, wanted in zip(plain.cases, plain.expected, strict=True):
            assert ask(client, case, MAX_TOKENS) == wanted, case.name


def test_text_asked_together(plain: Served) -> None:
    assert ask_all(plain.url, plain.cases, MAX_TOKENS, threads=12) == plain.expected
    images = {shape[1] for shape in batches(plain.folder)}
    assert images == set(range(1, plain.asked.max_images + 1))  # text alone has a blank one


def test_requests_of_one_shape_share_a_call(plain: Served) -> None:
    with InferenceServerClient(plain.url) as client:
        steps = [[passed_on(client.infer("preprocessing", inputs([c])), "pixel_values")] for c in plain.cases]
        before = len(batches(plain.folder))
        with ThreadPoolExecutor(2 * len(steps)) as pool:
            results = list(pool.map(partial(client.infer, "vision_encoder"), [*steps, *steps]))
    tables = [result.as_numpy("prompt_embedding_table")[0] for result in results]
    calls = batches(plain.folder)[before:]
    assert sum(call[0] for call in calls) == len(tables) and max(call[0] for call in calls) > 1
    for table, rows in zip(tables, [*plain.rows, *plain.rows], strict=True):
        if rows is not None:
            assert table.shape == rows.shape
            assert np.linalg.norm(table.astype(np.float32) - rows) < 0.005 * np.linalg.norm(rows.astype(np.float32))


def test_counts_are_right_though_the_image_is_blank(plain: Served) -> None:
    with InferenceServerClient(plain.url) as client:
        made = client.infer("preprocessing", inputs([plain.cases[0]]))
        pixels = made.as_numpy("pixel_values")
        assert pixels.shape[:2] == (1, 1) and not pixels.any()
        assert made.as_numpy("num_images").item() == made.as_numpy("num_rows").item() == 0


@pytest.mark.parametrize("face", ["ensemble", "tensorrt_llm_bls"])
def test_rows_of_one_request_with_different_numbers_of_images(streaming: Served, face: str) -> None:
    most = streaming.asked.max_images + 1
    for start in (0, most):
        chosen = slice(start, start + most)
        pieces, errors = ask_stream(streaming.url, face, streaming.cases[chosen], MAX_TOKENS)
        assert not errors
        assert ["".join(row) for row in pieces] == streaming.expected[chosen]


def test_streamed_pieces_join_to_the_text(streaming: Served) -> None:
    for case, wanted in zip(streaming.cases, streaming.expected, strict=True):
        pieces, errors = ask_stream(streaming.url, "tensorrt_llm_bls", [case], MAX_TOKENS, stream=True)
        assert not errors and "".join(pieces[0]) == wanted, case.name


def test_verify_asks_the_engine_by_its_names(streaming: Served) -> None:
    found = run(Verify(streaming.folder, streaming.asked.checkpoint, url=streaming.url, max_tokens=2), tell=print)
    for question, stages in found.stages:
        verdicts = {stage.name: stage.verdict for stage in stages}
        assert (verdicts["ids"], verdicts["pixels"]) == ("equal", "equal"), question
        assert verdicts["vision rows"] in ("equal", "close"), (question, stages)
