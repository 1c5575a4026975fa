"""Nougat's engines as the guide builds them, on both routes, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from generator.cli import main
from tests import engines

DECODER = {"vocab_size": 50000, "hidden_size": 1024, "dtype": "bfloat16", "max_encoder_input_len": 588}
GUIDE = {"max_batch_size": 1, "max_input_len": 1, "max_seq_len": 101, "plugins": {"paged_kv_cache": False}}


def generated(
    folder: Path, capsys: pytest.CaptureFixture[str], *more: str, **engine: Any
) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and findings besides that the tokenizer is not here."""
    vision = engines.vision(folder / "vision", model_type="nougat")
    llm = engines.attending(folder / "llm", **{"version": "0.15.0", **DECODER, **engine})
    given = ["--visual-engine-dir", str(vision), "--llm-engine-dir", str(llm)]
    code = main(["--model", "nougat", "--output", str(folder / "repo"), "--json", *given, *more])
    findings = json.loads(capsys.readouterr().out)["findings"]
    return code, [finding for finding in findings if finding["code"] != "not-servable-yet"]


def settings(folder: Path, role: str) -> Any:
    return json.loads((folder / "repo" / role / "1/settings.json").read_text())


def test_the_guides_own_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pages are longer than its 100 tokens, which is said."""
    code, [short] = generated(tmp_path, capsys, **GUIDE)
    assert (code, short["code"], short["level"]) == (0, "answer-too-short", "warning")
    assert "100 tokens" in short["what"] and "4095" in short["what"] and "--max_seq_len 4096" in short["remedy"]
    limits = settings(tmp_path, "preprocessing")["limits"]
    assert (limits["max_input_len"], limits["max_output_len"], limits["max_table_rows"]) == (1, 100, 588)
    step = settings(tmp_path, "tensorrt_llm")
    assert (step["carries"], step["dtype"]) == ("encoder_input_features", "bfloat16")
    assert main(["check", str(tmp_path / "repo")]) == 0


def test_asking_for_less_than_the_engine_holds_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = generated(tmp_path, capsys, "--max-tokens", "100", **GUIDE)
    assert (code, findings) == (0, [])
    assert settings(tmp_path, "preprocessing")["limits"]["default_max_tokens"] == 100


def test_the_backends_own_route(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, [finding] = generated(
        tmp_path, capsys, "--route", "encoder_features", "--streaming", max_seq_len=4096, paged=True
    )
    assert (code, finding["code"]) == (0, "experimental")
    config = (tmp_path / "repo/tensorrt_llm/config.pbtxt").read_text()
    assert 'backend: "tensorrtllm"' in config and "encoder_input_features" in config
    assert f"{tmp_path}/llm/decoder" in config and "cross_kv_cache_fraction" in config
    vision = (tmp_path / "repo/vision_encoder/config.pbtxt").read_text()
    assert "encoder_output_lengths" in vision and "TYPE_BF16" in vision
    assert main(["check", str(tmp_path / "repo")]) == 0


@pytest.mark.parametrize(
    ("arguments", "engine", "code", "words"),
    [
        (("--route", "encoder_features"), GUIDE, "no-paged-kv-cache", ("--route python_enc_dec",)),
        (("--route", "encoder_features"), {"version": "0.14.0"}, "route-release", ("0.15.0", "0.14.0")),
        (("--streaming",), {}, "no-streaming", ("--route encoder_features",)),
        (("--route", "prompt_table"), {}, "unknown-route", ("python_enc_dec",)),
        ((), {"max_encoder_input_len": 587}, "encoder-input-too-short", ("587", "588")),
        (("--max-images", "2"), {}, "max-images", ("takes 1 image per prompt, 2 asked",)),
    ],
)
def test_what_does_not_fit(
    arguments: tuple[str, ...],
    engine: dict[str, Any],
    code: str,
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, findings = generated(tmp_path, capsys, *arguments, **engine)
    found = [f"{finding['what']} {finding['remedy']}" for finding in findings if finding["code"] == code]
    assert len(found) == 1 and all(word in found[0] for word in words), findings


def test_the_answers_other_form_and_the_absent_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generated(tmp_path, capsys, max_seq_len=4096)
    for role in ("ensemble", "postprocessing"):
        assert '"markdown"' in (tmp_path / f"repo/{role}/config.pbtxt").read_text(), role
    for role in ("ensemble", "preprocessing"):
        [text] = [
            block
            for block in (tmp_path / f"repo/{role}/config.pbtxt").read_text().split("{")
            if 'name: "text_input"' in block
        ]
        assert "optional: true" in text, role
    assert settings(tmp_path, "preprocessing")["prompt"]["banned_ids"] == [3]
