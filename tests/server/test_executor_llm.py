"""The route python_executor on a real Triton: the generated steps, but for the executor, which is the stand-in, and the
vision step, which is the torch runtime's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from generator.generate import generate
from generator.options import Options
from generator.oracle.cogvlm import CogvlmOracle
from tests import engines, photos
from tests.checkpoints import cached, cogvlm
from tests.parity.client import Case, ask, ask_all, ask_stream, inputs, refusal
from tests.server.harness import triton

ROOT = Path(__file__).parents[2]
CHECKPOINT = cached("cogvlm") / cogvlm.FOLDER
ROWS, TOKENS = 1227, 8
CASES = [
    Case(name, text, (photos.encoded(name),))
    for name, text in zip(photos.names()[:8], photos.PROMPTS[10:], strict=False)
]


def repository(folder: Path, *, streaming: bool) -> Path:
    engine = engines.llm(
        folder / "engine",
        version="1.2.1",
        vocab_size=1024,
        hidden_size=64,
        dtype="bfloat16",
        max_seq_len=3000,
        table=8 * ROWS,
    )
    described = {"checkpoint": str(CHECKPOINT), "record": str(folder / "batches.json")}
    (engine / "rank0.engine").write_text(json.dumps(described))

    def made(runtime: Any) -> Path:
        options = Options(
            model="cogvlm",
            hf_model_dir=CHECKPOINT,
            llm_engine_dir=engine,
            runtime=runtime,
            output=folder / runtime,
            streaming=streaming,
        )
        outcome = generate(options)
        assert not outcome.failed, outcome.findings
        return outcome.output

    written, torch_runtime = made("trtllm"), made("torch")
    shutil.rmtree(written / "vision_encoder")
    shutil.copytree(torch_runtime / "vision_encoder", written / "vision_encoder")
    # The server's Python ignores PYTHONPATH, but finds what lies beside a step's code.
    code = written / "tensorrt_llm/1"
    shutil.copytree(ROOT / "tests/doubles/tensorrt_llm", code / "tensorrt_llm")
    shutil.copytree(ROOT / "generator/oracle", code / "generator/oracle")
    return written


@pytest.fixture(scope="module")
def oracle() -> CogvlmOracle:
    return CogvlmOracle(CHECKPOINT)


@pytest.fixture(scope="module")
def expected(oracle: CogvlmOracle) -> list[str]:
    return [oracle.generate(case.text, case.images, TOKENS)[1] for case in CASES]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("plain")
    with triton(repository(folder, streaming=False)) as server:
        yield server.grpc, folder


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with triton(repository(tmp_path_factory.mktemp("streaming"), streaming=True)) as server:
        yield server.grpc


def test_text_equals_the_oracles(plain: tuple[str, Path], expected: list[str]) -> None:
    with InferenceServerClient(plain[0]) as client:
        assert [ask(client, case, TOKENS) for case in CASES[:4]] == expected[:4]
    assert len(set(expected)) > 6


def test_unary_requests_are_batched_in_flight(plain: tuple[str, Path], expected: list[str]) -> None:
    assert ask_all(plain[0], CASES, TOKENS, threads=8) == expected
    assert max(json.loads((plain[1] / "batches.json").read_text())) > 1


def test_refusals_of_the_llm_reach_the_client(plain: tuple[str, Path], expected: list[str]) -> None:
    with InferenceServerClient(plain[0]) as client:
        asked = inputs(CASES[:1], temperature=np.array([[-1.0]], np.float32))
        assert "temperature is -1.0" in refusal(client, "ensemble", asked)
        assert ask(client, CASES[0], TOKENS) == expected[0]


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_rows_of_a_batch_are_told_apart(streaming: str, expected: list[str], model: str) -> None:
    pieces, errors = ask_stream(streaming, model, CASES[:3], TOKENS)
    assert not errors
    assert ["".join(row) for row in pieces] == expected[:3]


def test_streamed_pieces_join_to_the_text(streaming: str, expected: list[str]) -> None:
    pieces, errors = ask_stream(streaming, "tensorrt_llm_bls", CASES[4:5], TOKENS, stream=True)
    assert not errors and len(pieces[0]) > 3
    assert "".join(pieces[0]) == expected[4]
