"""Engines of a decoder that attends to a chart's patches: the guide's own builds, and what they cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from generator.check import check
from generator.cli import main
from tests import engines

SIZES = {"vocab_size": 50244, "hidden_size": 768, "dtype": "float16"}
GUIDE = {"max_seq_len": 2558, "max_encoder_input_len": 2048}


def generated(
    folder: Path, capsys: pytest.CaptureFixture[str], engine: dict[str, Any], *more: str
) -> tuple[int, list[dict[str, str]]]:
    """Exit code and findings; the vision engine is as TensorRT-LLM's builder writes it, which calls fp16 bfloat16."""
    vision = engines.vision(folder / "vision", model_type="pix2struct", precision="bfloat16")
    llm = engines.attending(folder / "llm", **(SIZES | GUIDE | engine))
    given = ["--visual-engine-dir", str(vision), "--llm-engine-dir", str(llm), "--output", str(folder / "repo")]
    code = main(["--model", "deplot", "--json", *given, *more])
    return code, json.loads(capsys.readouterr().out)["findings"]


def read(folder: Path, step: str) -> Any:
    return json.loads((folder / "repo" / step / "1/settings.json").read_text())


def test_the_guides_own_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = generated(tmp_path, capsys, {"version": "0.13.0"})
    assert code == 0 and {finding["code"] for finding in findings} == {"not-servable-yet"}
    before, vision, llm = (read(tmp_path, step) for step in ("preprocessing", "vision_encoder", "tensorrt_llm"))
    assert before["pixels"]["dtype"] == "float16" and before["pixels"]["shape"] == [2048, 770]
    assert before["limits"]["max_output_len"] == 2557
    assert vision["image_shape"] == [2048, 770] and vision["output"] == llm["carries"] == "encoder_input_features"
    assert llm["engine"] == str(tmp_path / "llm") and llm["max_seq_len"] == 2558
    assert {finding.level for finding in check(tmp_path / "repo")} == {"warning"}  # font and tokenizer are missing


def test_the_backend_of_the_release_runs_a_paged_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    route = ("--route", "encoder_features", "--streaming")
    code, findings = generated(tmp_path, capsys, {"version": "0.16.0", "paged": True}, *route)
    assert code == 0 and {finding["code"] for finding in findings} == {"not-servable-yet", "experimental"}
    config = (tmp_path / "repo/tensorrt_llm/config.pbtxt").read_text()
    assert 'backend: "tensorrtllm"' in config and f'string_value: "{tmp_path}/llm/decoder"' in config
    assert 'key: "cross_kv_cache_fraction" value: { string_value: "0.5" }' in config
    front = read(tmp_path, "tensorrt_llm_bls")
    assert {"text_output", "table_csv"} <= set(front["texts"])
    assert list(front["vision_outputs"]) == ["encoder_input_features", "encoder_output_lengths"]


@pytest.mark.parametrize(
    ("engine", "more", "code", "says"),
    [
        ({"max_encoder_input_len": 1024}, (), "encoder-input-too-short", ("1024", "2048")),
        ({"version": "0.16.0"}, ("--route", "encoder_features"), "no-paged-kv-cache", ("--route python_enc_dec",)),
        ({"version": "0.13.0", "paged": True}, ("--route", "encoder_features"), "route-release", ("0.15.0", "0.13.0")),
        ({}, ("--streaming",), "no-streaming", ("--route encoder_features",)),
        ({}, ("--max-images", "2"), "max-images", ("takes 1", "2 asked")),
        ({"max_seq_len": 101}, ("--max-tokens", "200"), "answer-too-short", ("100", "200")),
    ],
)
def test_what_an_engine_cannot_do(
    engine: dict[str, Any],
    more: tuple[str, ...],
    code: str,
    says: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exit_code, findings = generated(tmp_path, capsys, engine, *more)
    [found] = [finding for finding in findings if finding["code"] == code]
    assert exit_code == (1 if found["level"] == "error" else 0)
    assert all(words in found["what"] + found["remedy"] for words in says), found
