"""Every model, without engines and with engine folders of matching and of contradicting numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from generator.cli import main
from generator.limits import DEFAULT_BATCH_SIZE
from generator.models import specs
from generator.routes import FEATURES
from generator.spec import ModelSpec
from tests import engines

NAMES = list(specs())


def table_rows(spec: ModelSpec) -> int:
    """Prompt table rows of one request with the default number of images, from the spec's own numbers."""
    variant = spec.variants[0]
    entries = spec.layout.largest(spec.layout.settings)[0] if spec.layout.largest else 1
    return spec.constant_rows + spec.default_images * entries * variant.rows_per_image


def matching(spec: ModelSpec, folder: Path, **changes: Any) -> list[str]:
    variant = spec.variants[0]
    vision = engines.vision(folder / "vision", model_type=spec.engine_model_types[0], precision=spec.vision_dtype)
    numbers = {
        "vocab_size": variant.vocab_size,
        "hidden_size": variant.hidden_size,
        "dtype": spec.dtype,
        "table": DEFAULT_BATCH_SIZE * table_rows(spec),
        "max_input_len": 4096,
        "max_seq_len": 4608,
    }
    make = (
        engines.encoder_decoder if spec.encodes_prompt else engines.attending if spec.separate_decoder else engines.llm
    )
    if spec.separate_decoder:
        numbers |= {"max_seq_len": max(1024, spec.default_max_tokens), "max_encoder_input_len": 2048}
    llm = make(folder / "llm", **(numbers | changes))
    return ["--visual-engine-dir", str(vision), "--llm-engine-dir", str(llm)]


@pytest.mark.parametrize("model", NAMES)
def test_without_engines(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--model", model]) == 0


@pytest.mark.parametrize("model", NAMES)
def test_matching_engines(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = specs()[model]
    output = tmp_path / "repository"
    assert main(["--model", model, "--output", str(output), "--json", *matching(spec, tmp_path)]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {finding["code"] for finding in findings} == {"not-servable-yet"}  # the tokenizer is not here
    settings = json.loads((output / "preprocessing/1/settings.json").read_text())
    assert settings["limits"]["max_table_rows"] == table_rows(spec)
    assert settings["limits"]["max_images"] == spec.default_images


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize(
    ("change", "code"), [("rows", "table-too-small"), ("hidden_size", "engine-hidden-size"), ("dtype", "engine-dtype")]
)
def test_contradicting_engines(
    model: str, change: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = specs()[model]
    one_image = (table_rows(spec) - spec.constant_rows) // spec.default_images + spec.constant_rows
    if spec.layout.smallest:  # a table too small for its largest image alone is but a limit
        one_image = spec.layout.smallest(spec.layout.settings)[0] + spec.constant_rows
    rows = {"table": DEFAULT_BATCH_SIZE * one_image - 1}
    if spec.carries == FEATURES and change == "rows":
        rows, code = {"max_encoder_input_len": one_image - 1}, "encoder-input-too-short"
    changes: dict[str, Any] = {
        "rows": rows,
        "hidden_size": {"hidden_size": 1234},
        "dtype": {"dtype": "int4"},
    }[change]
    arguments = matching(spec, tmp_path, **changes)
    if change == "hidden_size":
        hidden = spec.variants[0].hidden_size
        engines.vision(tmp_path / "vision", model_type=spec.engine_model_types[0], output_shape=[-1, 7, hidden])
    assert main(["--model", model, "--output", str(tmp_path / "repository"), "--json", *arguments]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    [found] = [finding for finding in findings if finding["code"] == code]
    numbers = {
        "rows": (str(one_image - 1), str(one_image)),
        "hidden_size": ("1234", str(spec.variants[0].hidden_size)),
        "dtype": ("int4",),
    }[change]
    assert all(number in found["what"] for number in numbers), found
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(("built", "times"), [(1, 5), (4, 2), (5, 0)])
def test_a_vision_engine_for_fewer_than_one_request_has(
    built: int, times: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = engines.vision(tmp_path / "vision", model_type="llava_next", max_batch_size=built)
    arguments = ["--output", str(tmp_path / "r"), "--visual-engine-dir", str(folder), "--json"]
    assert main(["--model", "llava-next", *arguments]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    said = [finding["what"] for finding in findings if finding["code"] == "vision-batch"]
    assert len(said) == (times > 0) and all(f"called {times} times" in what for what in said)


@pytest.mark.parametrize("model", NAMES)
def test_engine_of_another_model(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = engines.vision(tmp_path / "vision", model_type="another")
    assert main(["--model", model, "--output", str(tmp_path / "r"), "--visual-engine-dir", str(folder)]) == 1
    text = capsys.readouterr().err
    assert "'another'" in text and f"'{specs()[model].engine_model_types[0]}'" in text
