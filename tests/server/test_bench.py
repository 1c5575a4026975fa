"""`gen-repo bench` with a real perf_analyzer on a real Triton: whole answers, streams, and a server that runs already.

Without perf_analyzer (the package needs glibc 2.38) these are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from generator.bench import analyzer
from generator.cli import main
from generator.generate import generate
from generator.options import Options
from generator.server import ServerError
from tests.checkpoints import cached
from tests.server.harness import triton

SHORT = ["--requests", "4", "--distinct", "3", "--image-size", "96x64", "--output-tokens", "3", "--prompt-words", "5"]


@pytest.fixture(autouse=True)
def program() -> str:
    try:
        return analyzer.find()
    except ServerError as error:
        pytest.skip(str(error))


def repository(folder: Path, *, streaming: bool) -> Path:
    options = Options(
        model="vila", hf_model_dir=cached("vila"), runtime="torch", output=folder / "vila", streaming=streaming
    )
    outcome = generate(options)
    assert not outcome.failed, outcome.findings
    return outcome.output


def bench(where: Path | str, output: Path, *words: str) -> list[dict[str, Any]]:
    assert main(["bench", str(where), "--output", str(output), *SHORT, *words]) == 0
    content = json.loads((output / "results.json").read_text())
    points: list[dict[str, Any]] = content["points"]
    return points


def test_whole_answers_over_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = bench(repository(tmp_path, streaming=False), tmp_path / "out", "--images", "0,2", "--concurrency", "1,2")
    said = capsys.readouterr()
    assert [(p["images"], p["concurrency"]) for p in points] == [(0, 1), (0, 2), (2, 1), (2, 2)]
    assert [p["image_size"] for p in points] == [None, None, [96, 64], [96, 64]]
    for point in points:
        assert point["requests"] == 4 and point["answer_tokens"] == 3.0
        assert 0 < point["latency_ms"]["p50"] <= point["latency_ms"]["p90"] <= point["latency_ms"]["p99"]
        assert list(point["steps"]) == ["preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing"]
        assert all(step["requests"] >= 4 and step["compute_ms"] > 0 for step in point["steps"].values())
        profile = point["profile"]
        assert 0 < profile["llm_ms"] < profile["total_ms"] and 0 < profile["vision_ms"] < profile["total_ms"]
        assert point["server_cores"] > 0 and point["client"]["overhead_percent"] is not None
    sent = json.loads((tmp_path / "out/requests-96x64-2img-5words-3tokens.json").read_text())["data"]
    assert len(sent) == 3 and len({row["image_encoded_input"]["b64"] for row in sent}) == 3
    assert "[4/4]" in said.err and "96x64" in said.out and "preprocessing" in said.out
    assert not (tmp_path / "vila" / "out").exists()


def test_streams_and_a_running_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = repository(tmp_path, streaming=True)
    with triton(folder) as server:
        (point,) = bench(server.grpc, tmp_path / "out", "--stream", "--concurrency", "1")
        assert point["answer_tokens"] == 3.0 and point["server_cores"] is None
        first, whole, between = (point[kind]["p50"] for kind in ("first_token_ms", "latency_ms", "between_tokens_ms"))
        assert 0 < first < whole and 0 < between < whole
        assert "--streaming" in point["command"] and "tensorrt_llm_bls" in point["command"]
        refused = ["bench", server.grpc, "--output", str(tmp_path / "none"), *SHORT, "--images", "99"]
        assert main(refused) == 3
        capsys.readouterr()
        (again,) = bench(folder, tmp_path / "again", "--url", server.grpc, "--concurrency", "1", "--json")
        assert json.loads(capsys.readouterr().out)["points"] == [again]
        assert "ensemble" in again["command"] and again["answer_tokens"] == 3.0 and not again["between_tokens_ms"]
