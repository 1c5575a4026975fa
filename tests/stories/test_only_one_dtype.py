"""A model that runs in one dtype only, whose tokenizer is another checkpoint's: what fits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from generator.cli import main
from tests import checkpoints, engines
from tests.checkpoints import cogvlm

ROWS = 1227
FITS = {"vocab_size": 32000, "hidden_size": 4096, "dtype": "bfloat16", "table": 8 * ROWS, "max_seq_len": 3000}


def asked(folder: Path, *more: str, **changes: object) -> list[str]:
    vision = engines.vision(folder / "vision", model_type="cogvlm", precision="bfloat16")
    llm = engines.llm(folder / "llm", **(FITS | changes))  # type: ignore[arg-type]
    where = ["--visual-engine-dir", str(vision), "--llm-engine-dir", str(llm), "--output", str(folder / "repository")]
    return ["--model", "cogvlm", "--json", *where, *more]


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    found = json.loads(capsys.readouterr().out)["findings"]
    return {finding["code"]: f"{finding['what']}; {finding['remedy']}" for finding in found}


def test_the_guides_engines_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the guide builds them: batches of 48, 2048 prompt tokens, 3076 in all, 61440 rows."""
    numbers = {"max_batch_size": 48, "max_input_len": 2048, "max_seq_len": 3076, "table": 61440, "version": "0.13.0"}
    assert main(asked(tmp_path, **numbers)) == 0
    assert set(findings(capsys)) == {"not-servable-yet"}
    settings = json.loads((tmp_path / "repository/tensorrt_llm/1/settings.json").read_text())
    assert settings["names"] == {"max_tokens": "max_new_tokens", "min_tokens": "min_length", "seed": "random_seed"}
    assert settings["rows_per_image"] == ROWS
    config = (tmp_path / "repository/tensorrt_llm/config.pbtxt").read_text()
    assert 'backend: "python"' in config
    assert 'key: "enable_context_fmha_fp32_acc" value: { string_value: "true" }' in config
    assert "enable_kv_cache_reuse" not in config and "enable_chunked_context" not in config
    assert "data_type: TYPE_BF16" in config


def test_an_image_takes_three_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a sequence may be longer than the model has positions."""
    monkeypatch.chdir(tmp_path)
    assert main(["--model", "cogvlm"]) == 0
    script = (tmp_path / "model_repos/cogvlm/build_engines.sh").read_text()
    length = int(script.split("--max_seq_len ")[1].split()[0])
    assert 2048 < length <= 2048 + ROWS - 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "float16"}, "the LLM engine's dtype is float16, CogVLM runs in bfloat16 only"),
        ({"quantization": "W8A16"}, "bfloat16, quantized as W8A16, CogVLM runs in bfloat16 only"),
    ],
)
def test_other_llm_engines_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], says: str
) -> None:
    arguments = asked(tmp_path, **{name: value for name, value in changes.items() if name != "quantization"})
    if "quantization" in changes:
        path = tmp_path / "llm/config.json"
        config = json.loads(path.read_text())
        config["pretrained_config"]["quantization"]["quant_algo"] = changes["quantization"]
        path.write_text(json.dumps(config))
    assert main(arguments) == 1
    found = findings(capsys)
    assert says in found["engine-dtype"] and "--dtype bfloat16" in found["engine-dtype"]
    assert not (tmp_path / "repository").exists()


def test_another_vision_engine_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = asked(tmp_path)
    engines.vision(tmp_path / "vision", model_type="cogvlm", precision="float16")
    assert main(arguments) == 1
    assert "'float16', CogVLM runs in bfloat16 only" in findings(capsys)["engine-dtype"]


@pytest.mark.parametrize(
    ("more", "changes", "code", "says"),
    [
        (["--kv-cache-reuse"], {}, "kv-cache-reuse", "python_executor"),
        (["--set", "tensorrt_llm.enable_chunked_context=true"], {}, "unknown-set", "does not read enable_chunked"),
        (["--set", "tensorrt_llm.decoding_mode=top_k"], {}, "unknown-set", "does not read decoding_mode"),
        (["--route", "prompt_table"], {}, "unknown-route", "python_executor"),
        ([], {"version": "0.12.0"}, "route-release", "needs TensorRT-LLM 0.13.0 or later, the release is 0.12.0"),
        ([], {"plugins": {"paged_kv_cache": False}}, "no-paged-kv-cache", "--paged_kv_cache enable"),
    ],
)
def test_what_its_step_cannot_do_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    changes: dict[str, object],
    code: str,
    says: str,
) -> None:
    assert main(asked(tmp_path, *more, **changes)) == 1
    assert says in findings(capsys)[code]


def test_the_tokenizers_folder_lies_beside_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoints.cached("cogvlm")
    assert main(asked(tmp_path, "--hf-model-dir", str(folder / cogvlm.FOLDER), vocab_size=1024, hidden_size=64)) == 0
    assert (tmp_path / "repository/preprocessing/1/tokenizer.json").is_file()
    capsys.readouterr()
    alone = tmp_path / "alone"
    alone.symlink_to(folder / cogvlm.FOLDER)
    given = [*asked(tmp_path, vocab_size=1024, hidden_size=64), "--force", "--hf-model-dir", str(alone)]
    assert main(given) == 0
    assert f"the tokenizer (lmsys/vicuna-7b-v1.5, {tmp_path}/vicuna-7b-v1.5)" in findings(capsys)["not-servable-yet"]
    assert main([*given, "--tokenizer-dir", str(folder / cogvlm.TOKENIZER)]) == 0
    assert "not-servable-yet" not in findings(capsys)


def test_the_next_generation_is_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "cogvlm2"
    checkpoint.mkdir()
    config = cogvlm.config(490) | {"num_multi_query_heads": 8}
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert main([*asked(tmp_path), "--hf-model-dir", str(checkpoint)]) == 1
    assert "without num_multi_query_heads" in findings(capsys)["wrong-checkpoint"]
