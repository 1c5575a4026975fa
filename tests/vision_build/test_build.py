"""build-vision from checkpoint to engine folder, TensorRT's builder replaced by a stand-in of the calls that are used."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from generator.cli import main
from generator.facts import engines
from generator.vision_build import command
from tests.checkpoints import cached
from tests.doubles import tensorrt_builder as builders

DOUBLES = Path(__file__).parents[1] / "doubles"


@pytest.fixture(autouse=True)
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOUBLES))
    module = importlib.import_module("tensorrt")
    builders.install(module)
    monkeypatch.setattr(module, "__version__", builders.VERSION)
    monkeypatch.setattr(builders.Builder, "built", [])
    monkeypatch.setattr(command, "_require_gpu", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")


def build(model: str, folder: Path, *more: str) -> int:
    given = ["--model", model, "--hf-model-dir", str(cached(model)), "--output", str(folder), *more]
    return main(["build-vision", *given])


def test_the_folder_is_what_gen_repo_and_tensorrt_llm_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "vision"
    assert build("llava-next", folder, "--max-batch-size", "10") == 0
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.engine", "image_newlines.safetensors"}
    builder = json.loads((folder / "config.json").read_text())["builder_config"]
    assert (builder["precision"], builder["model_type"]) == ("float16", "llava_next")
    facts = engines.vision_engine(folder)
    assert (facts.rows, facts.hidden_size, facts.max_batch_size, facts.pixels) == (576, 64, 10, "float")
    assert load_file(folder / "image_newlines.safetensors")["image_newline"].shape == (64,)
    engine = json.loads((folder / "model.engine").read_text())
    assert engine["profile"] == [[n, 3, 336, 336] for n in (1, 5, 10)]
    assert engine["tensors"]["input"]["dtype"] == engine["tensors"]["output"]["dtype"] == "HALF"
    repository = tmp_path / "repository"
    given = ["--hf-model-dir", str(cached("llava-next")), "--visual-engine-dir", str(folder)]
    assert main(["--model", "llava-next", "--output", str(repository), *given]) == 0
    assert "missing: the LLM engine" in capsys.readouterr().err
    settings = json.loads((repository / "vision_encoder/1/settings.json").read_text())
    assert settings["engine"] == str(folder / "model.engine") and settings["max_batch"] == 10


def test_open_axes_have_a_profile_of_their_own(tmp_path: Path) -> None:
    assert build("fuyu", tmp_path, "--max-batch-size", "3") == 0
    engine = json.loads((tmp_path / "model.engine").read_text())
    assert engine["profile"] == [[1, 1, 1, 2700], [1, 1, 576, 2700], [3, 1, 2304, 2700]]


def test_nothing_is_built_again_unless_something_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*more: str) -> str:
        assert build("llava", tmp_path, *more) == 0
        return capsys.readouterr().out.strip().rpartition(": ")[2]

    assert said() == "built"
    before = (tmp_path / "config.json").read_bytes()
    assert said() == "already up to date"
    assert (tmp_path / "config.json").read_bytes() == before and len(builders.Builder.built) == 1
    for change in (["--max-batch-size", "2"], ["--precision", "fp32"], ["--optimization-level", "1"]):
        assert said(*change) == "built"
    assert said("--optimization-level", "1") == "already up to date"
    (tmp_path / "config.json").write_text("{}")  # by another tool, or damaged
    assert said("--optimization-level", "1") == "built"
    (tmp_path / "model.engine").unlink()
    assert said("--optimization-level", "1") == "built"


def test_options_reach_the_builder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build("llava", tmp_path) == 0
    assert build("llava", tmp_path, "--precision", "fp32", "--optimization-level", "0") == 0
    half, single = builders.Builder.built
    assert half.flags == {builders.BuilderFlag.FP16, builders.BuilderFlag.TF32}
    assert single.flags == set() and (half.builder_optimization_level, single.builder_optimization_level) == (3, 0)
    assert build("llava", tmp_path, "--precision", "bf16") == 1  # 8.6 cannot
    assert "8.6.0 has no bfloat16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Could not find any implementation for node {ForeignNode[/tower/layers.0]}", "--optimization-level"),
        ("Requested amount of GPU memory (99 bytes) could not be allocated", "--max-batch-size below 8"),
    ],
)
def test_a_failed_build_names_node_and_remedy(
    said: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("llava", tmp_path, "--max-batch-size", "4") == 0
    monkeypatch.setattr(builders.Builder, "fails_with", said)
    assert build("llava", tmp_path) == 1
    text = capsys.readouterr().err
    assert said in text and remedy in text
    assert not (tmp_path / "config.json").exists()  # the engine that was there is not what was asked for
    assert (tmp_path / "onnx/model.onnx").is_file()  # to look at


def test_constant_rows_are_always_those_of_the_engine_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("llava-next", tmp_path) == 0
    rows = tmp_path / "image_newlines.safetensors"
    engine, content = (tmp_path / "model.engine").read_bytes(), rows.read_bytes()
    rows.unlink()
    assert build("llava-next", tmp_path) == 0
    assert "already up to date" in capsys.readouterr().out and rows.read_bytes() == content
    other = ["--hf-model-dir", str(cached("llava-next-hermes-2"))]
    with monkeypatch.context() as failing:
        failing.setattr(builders.Builder, "fails_with", "out of memory")
        assert build("llava-next", tmp_path, *other) == 1
    assert ((tmp_path / "model.engine").read_bytes(), rows.read_bytes()) == (engine, content)
    assert build("llava-next", tmp_path, *other) == 0
    assert rows.read_bytes() != content
    assert not [file for file in tmp_path.iterdir() if "unfinished" in file.name]


def test_a_node_that_tensorrt_does_not_know_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(builders.OnnxParser, "unsupported", {"Softmax"})
    assert build("llava", tmp_path) == 1
    text = capsys.readouterr().err
    assert "cannot read node number" in text and "op: Softmax" in text


def test_engines_of_levels_make_repositories_of_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, repository = tmp_path / "vision", tmp_path / "repository"
    assert build("llava", folder, "--pixels", "uint8") == 0
    assert engines.vision_engine(folder).pixels == "uint8"
    engine = json.loads((folder / "model.engine").read_text())
    assert engine["tensors"]["input"] == {"mode": "INPUT", "dtype": "UINT8", "shape": [-1, 336, 336, 3]}

    def generate(*more: str) -> tuple[int, list[dict[str, Any]]]:
        given = [
            "--hf-model-dir",
            str(cached("llava")),
            "--visual-engine-dir",
            str(folder),
            "--output",
            str(repository),
        ]
        code = main(["--model", "llava", "--json", *given, *more])
        return code, json.loads(capsys.readouterr().out.partition("\n}\n")[0] + "\n}")["findings"]

    capsys.readouterr()
    assert generate()[0] == 0
    assert main(["check", str(repository)]) == 0
    capsys.readouterr()
    pixels = json.loads((repository / "preprocessing/1/settings.json").read_text())["pixels"]
    assert (pixels["dtype"], pixels["shape"]) == ("uint8", [336, 336, 3])
    config = (repository / "vision_encoder/config.pbtxt").read_text()
    assert "TYPE_UINT8" in config
    code, findings = generate("--pixels", "float", "--force")
    assert code == 1 and [f["code"] for f in findings if f["level"] == "error"] == ["engine-pixels"]
    content = json.loads((folder / "config.json").read_text())
    content["gen_repo"]["normalisation"]["mean"][0] += 0.1
    (folder / "config.json").write_text(json.dumps(content))
    code, findings = generate("--force")
    assert code == 1 and [f["code"] for f in findings if f["level"] == "error"] == ["engine-pixels"]


def test_an_engine_of_requests_is_built_linked_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, repository = tmp_path / "vision", tmp_path / "repository"
    sizes = ["--max-batch-size", "6", "--max-images", "3"]
    assert build("phi-3-vision", folder, "--vision-backend", "tensorrt", *sizes) == 0
    assert "up to 6 requests of 51 entries" in capsys.readouterr().err
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.engine"}  # constant rows are inside
    engine = json.loads((folder / "model.engine").read_text())
    assert engine["profile"] == [[b, n, 3, 336, 336] for b, n in ((1, 1), (3, 17), (6, 51))]
    assert engine["tensors"] == {
        "pixel_values": {"mode": "INPUT", "dtype": "HALF", "shape": [-1, -1, 3, 336, 336]},
        "prompt_embedding_table": {"mode": "OUTPUT", "dtype": "HALF", "shape": [-1, -1, -1]},
    }
    facts = engines.vision_engine(folder)
    assert facts.requests == engines.RequestsForm(51, 144, 2, "float16")
    assert (facts.rows, facts.hidden_size, facts.max_batch_size, facts.most_entries) == (144, 64, 6, 306)
    given = ["--model", "phi-3-vision", "--hf-model-dir", str(cached("phi-3-vision")), "--output", str(repository)]
    given += ["--visual-engine-dir", str(folder), *sizes]
    assert main([*given, "--vision-backend", "tensorrt"]) == 0
    assert main(["check", str(repository)]) == 0
    assert (repository / "vision_encoder/1/model.plan").resolve() == folder / "model.engine"
    capsys.readouterr()
    assert main([*given, "--force"]) == 1  # the Python step sends images
    assert "use --vision-backend tensorrt" in capsys.readouterr().err


def test_form_and_table_of_an_engine_are_part_of_what_it_was_built_for(tmp_path: Path) -> None:
    for more in ([], ["--table-precision", "fp32"], ["--max-batch-size", "2"], ["--pixels", "uint8"]):
        assert build("llava", tmp_path, "--vision-backend", "tensorrt", *more) == 0
    assert build("llava", tmp_path) == 0
    assert len(builders.Builder.built) == 5
    tensors = json.loads((tmp_path / "model.engine").read_text())["tensors"]
    assert list(tensors) == ["input", "output"]
