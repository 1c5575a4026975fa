"""`gen-repo check` finds what was broken by hand: each edit gives the finding that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from generator.check import check
from generator.findings import Finding, Refused
from generator.generate import generate
from generator.options import Options
from tests import engines

NOWHERE = Path("/nonexistent")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return generate(Options(model="vila", output=tmp_path / "repo", working_dir=NOWHERE, streaming=True)).output


def edit(repository: Path, file: str, old: str, new: str) -> list[Finding]:
    path = repository / file
    text = path.read_text()
    assert old in text, f"{old!r} is not in {file}"
    path.write_text(text.replace(old, new, 1))
    findings = check(repository)
    assert any(f.code == "edited-file" and file in f.what for f in findings)
    return [f for f in findings if f.level == "error"]


ENSEMBLE, LLM, PRE = "ensemble/config.pbtxt", "tensorrt_llm/config.pbtxt", "preprocessing/config.pbtxt"


@pytest.mark.parametrize(
    ("file", "old", "new", "phrase"),
    [
        (ENSEMBLE, 'input_map { key: "input_ids" value: "_input_ids" }', "", "goes nowhere"),
        (
            ENSEMBLE,
            'input_map { key: "input_lengths" value: "_input_lengths" }',
            "",
            "tensorrt_llm needs input 'input_lengths'",
        ),
        (ENSEMBLE, 'value: "_pixel_values" }\n    input_map', 'value: "pixels" }\n    input_map', "no earlier step makes"),
        (ENSEMBLE, 'key: "runtime_top_k"', 'key: "topk"', "has no input 'topk'"),
        (ENSEMBLE, 'model_name: "postprocessing"', 'model_name: "post"', "'post' is no model"),
        (ENSEMBLE, "max_batch_size: 8", "max_batch_size: 16", "takes batches of 8, the ensemble of 16"),
        (ENSEMBLE, '"text_output" data_type: TYPE_STRING dims: [ -1 ]', '"text_output" data_type: TYPE_INT32 dims: [ -1 ]', "postprocessing makes STRING"),
        (ENSEMBLE, 'output { name: "cum_log_probs"', 'output { name: "cum_probs"', "made by no step"),
        (ENSEMBLE, 'value: "_num_rows" }\n    output_map { key: "input_ids"', 'value: "_num_images" }\n    output_map { key: "input_ids"', "made twice"),
        (
            ENSEMBLE,
            'input_map { key: "sequence_length" value: "_sequence_length" }',
            'input_map { key: "sequence_length" value: "_end_id" }',
            "mixes tensors of a decoupled step",
        ),
        (PRE, '"input_ids" data_type: TYPE_INT32', '"input_ids" data_type: TYPE_INT64', "makes '_input_ids' as INT64"),
        (PRE, '"input_ids" data_type: TYPE_INT32 dims: [ -1 ]', '"input_ids" data_type: TYPE_INT32 dims: [ -1, 2 ]', "has shape [-1]"),
        (PRE, 'name: "preprocessing"', 'name: "pre"', "names the model 'pre'"),
        (PRE, "dynamic_batching { }", "dynamic_batching {", "Triton cannot parse it"),
        (LLM, 'name: "prompt_table_extra_ids"', 'name: "prompt_table_ids"', "'prompt_table_ids' is unknown"),
        (LLM, "dims: [ 1 ] reshape: { shape: [  ] }", "dims: [ 1 ]", "is reshaped to None"),
        (LLM, 'value: { string_value: "guaranteed_no_evict" }', 'value: { string_value: "fifo" }', "must be one of"),
        (LLM, 'key: "max_beam_width"', 'key: "beam"', "'beam' is unknown"),
        ("preprocessing/1/model.py", "import numpy as np", "import numpyx as np", "imports 'numpyx'"),
        ("preprocessing/1/model.py", "import numpy as np", "import", "line"),
        ("preprocessing/1/settings.json", '"max_images": 4', '"max_images": 9', "9 images of 196 rows exceed"),
        ("preprocessing/1/settings.json", '"max_seq_len": 2560', '"max_seq_len": 2048', "leaves no room"),
        ("postprocessing/1/settings.json", "{", "", "not valid JSON"),
        ("manifest.json", '"release": "1.2.1"', '"release": "7.0"', "'7.0', which is not known"),
    ],
)  # fmt: skip
def test_edit_is_found(repository: Path, file: str, old: str, new: str, phrase: str) -> None:
    if file == "manifest.json":
        path = repository / file
        path.write_text(path.read_text().replace(old, new))
        errors = [f for f in check(repository) if f.level == "error"]
    else:
        errors = edit(repository, file, old, new)
    assert any(phrase in f.what for f in errors), [str(f) for f in errors]
    assert all(f.remedy for f in errors)


def test_fresh_repository_has_only_servability_warnings(repository: Path) -> None:
    assert {(f.level, f.code) for f in check(repository)} == {("warning", "not-servable-yet")}


@pytest.mark.parametrize(
    "gone",
    [
        "preprocessing/1/prompt.py",
        "preprocessing/1/images.py",  # which no import names, but settings
        "vision_encoder/1/model.py",
        "tensorrt_llm/config.pbtxt",
        "llm_responses/config.pbtxt",
    ],
)
def test_missing_file_is_found(repository: Path, gone: str) -> None:
    (repository / gone).unlink()
    findings = check(repository)
    assert any((f.level, f.code) == ("error", "missing-file") and gone in f.what for f in findings)


@pytest.mark.parametrize(("key", "entry"), [("tokenizer", "file"), ("media", "font"), ("checkpoint", None)])
def test_a_path_that_can_be_none_is_not_there(repository: Path, key: str, entry: str | None) -> None:
    """Longer than any file's name, which the system answers with an error of its own."""
    file = repository / "preprocessing/1/settings.json"
    settings = json.loads(file.read_text())
    settings[key] = {entry: "x" * 300} if entry else "x" * 300
    file.write_text(json.dumps(settings))
    assert any(f.code == "not-servable-yet" and "x" * 300 in f.what for f in check(repository))


def test_added_file_is_reported(repository: Path) -> None:
    (repository / "notes.txt").write_text("mine")
    assert any("notes.txt is added" in f.what for f in check(repository))


def test_folder_that_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"manifest\.json"):
        check(tmp_path)
    with pytest.raises(Refused, match="no such folder"):
        check(tmp_path / "nowhere")


def test_engine_rebuilt_smaller_than_the_repository(tmp_path: Path) -> None:
    engine = engines.llm(tmp_path / "llm", table=8 * 196 * 4, **engines.VILA_LLM)
    made = generate(Options(model="vila", llm_engine_dir=engine, output=tmp_path / "repo", working_dir=NOWHERE))
    assert not [f for f in check(made.output) if f.level == "error"]
    engines.llm(engine, table=8 * 196, max_seq_len=1000, max_input_len=900, max_batch_size=4, **engines.VILA_LLM)
    errors = [f.what for f in check(made.output) if f.level == "error"]
    assert any(
        "max_table_rows is 784, the engine's rows per request (table / max_batch_size) is 392" in e for e in errors
    )
    assert any("max_seq_len is 2560, the engine's max_seq_len is 1000" in e for e in errors)
    assert any("max_batch_size is 8, the engine's max_batch_size is 4" in e for e in errors)


def test_engine_of_another_vocabulary(tmp_path: Path) -> None:
    engine = engines.llm(tmp_path / "llm", table=8 * 196 * 4, **engines.VILA_LLM)
    made = generate(Options(model="vila", llm_engine_dir=engine, output=tmp_path / "repo", working_dir=NOWHERE))
    config = json.loads((engine / "config.json").read_text())
    config["pretrained_config"]["vocab_size"] = 32064
    (engine / "config.json").write_text(json.dumps(config))
    errors = [f.what for f in check(made.output) if f.level == "error"]
    assert errors == ["image ids start at 32000, the engine's vocabulary is 32064"]


def test_engines_of_an_encoder_decoder_rebuilt_smaller(tmp_path: Path) -> None:
    numbers = {"vocab_size": 32128, "hidden_size": 2048, "dtype": "bfloat16"}
    engine = engines.encoder_decoder(tmp_path / "llm", **numbers)
    made = generate(Options(model="blip2-t5", llm_engine_dir=engine, output=tmp_path / "repo", working_dir=NOWHERE))
    assert not [f for f in check(made.output) if f.level == "error"]
    engines.encoder_decoder(engine, **numbers, max_seq_len=512, max_input_len=400, table=8 * 16)
    errors = [f.what for f in check(made.output) if f.level == "error"]
    assert errors == [
        "max_table_rows is 32, the engine's rows per request (table / max_batch_size) is 16",
        "max_input_len is 924, the engine's max_input_len is 400",
        "max_seq_len is 1024, the engine's max_seq_len is 512",
    ]
