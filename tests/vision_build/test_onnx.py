"""Exported encoders against the vision step's own torch modules: tiny checkpoints, onnxruntime on the CPU."""

from __future__ import annotations

import importlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from generator.cli import main
from generator.models import specs
from generator.vision_build import onnx_file
from generator.vision_build import tower as towers
from generator.vision_build.fold import LARGEST
from generator.vision_build.subject import BuildOptions, subject
from tests.checkpoints import MAKERS, cached

MODELS = [name for name in specs() if name in MAKERS]
TABLES = [name for name in MODELS if name not in ("deplot", "nougat", "fuyu")]  # which the TensorRT backend can run
NOT_READ = {"Dropout", "If", "Loop", "SequenceEmpty", "ScatterND", "NonZero", "Mod"}
PRODUCTS = {"Conv", "Gemm", "MatMul"}
LEVELS = ("llava", "llava-next", "video-neva", "kosmos-2")


def checkpoint_of(model: str) -> Path:
    """The checkpoint itself, where the tiny one is a folder with more beside it."""
    folder = cached(model)
    inner = folder / "cogvlm-chat-hf"
    return inner if inner.is_dir() else folder


def options(model: str, output: Path, **more: Any) -> BuildOptions:
    """Of the tiny checkpoint of `model`, in fp32: what onnxruntime computes exactly enough to compare."""
    folder = checkpoint_of(model)
    asked = {"precision": "fp32", "onnx_only": True, **more}
    if specs()[model].checkpoint.projector:
        asked["projector"] = folder / specs()[model].checkpoint.projector
    return BuildOptions(model=model, hf_model_dir=folder, output=output, **asked)


def arguments(made: BuildOptions) -> list[str]:
    given = ["build-vision", "--model", made.model, "--hf-model-dir", str(made.hf_model_dir), "--output"]
    given += [str(made.output), "--onnx-only", "--precision", str(made.precision), "--pixels", made.pixels]
    if made.vision_backend != "python":
        given += ["--vision-backend", made.vision_backend, "--table-precision", str(made.table_precision)]
    given += ["--max-images", str(made.max_images)] if made.max_images else []
    return given + (["--projector", str(made.projector)] if made.projector else [])


def session(file: Path) -> onnxruntime.InferenceSession:
    quiet = onnxruntime.SessionOptions()
    quiet.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), quiet, providers=["CPUExecutionProvider"])


def run(file: Path, pixels: torch.Tensor, name: str = "input") -> np.ndarray[Any, Any]:
    [rows] = session(file).run(None, {name: pixels.numpy()})
    return rows  # type: ignore[no-any-return]


def relative_error(found: np.ndarray[Any, Any], truth: torch.Tensor) -> float:
    wanted = truth.float().numpy()
    assert found.shape == wanted.shape
    return float(np.linalg.norm(found.astype(np.float32) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("model", MODELS)
def test_export_equals_torch_for_any_batch(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = options(model, tmp_path)
    assert main(arguments(asked)) == 0
    assert capsys.readouterr().out.strip().endswith("model.onnx: built")
    wanted, _ = subject(asked)
    module, constants = towers.load(wanted)
    module.cpu()
    for entries in (1, 3):
        pixels = towers.sample(wanted, module, entries).cpu()
        with torch.no_grad():
            truth = module(pixels)
        rows = run(tmp_path / "model.onnx", pixels)
        assert relative_error(rows, truth) < 1e-4
        others = run(tmp_path / "model.onnx", pixels.flip(0))
        assert relative_error(others[::-1], truth) < 1e-4  # no entry looks at another
    if constants is not None:
        name, names = wanted.constants
        stored = load_file(tmp_path / name)
        assert list(stored) and torch.equal(torch.stack([stored[row] for row in names]), constants)


@pytest.mark.parametrize("model", MODELS)
def test_the_file_is_what_tensorrt_8_6_reads(model: str, tmp_path: Path) -> None:
    assert main(arguments(options(model, tmp_path, precision="fp16"))) == 0
    content = onnx.load(str(tmp_path / "model.onnx"))
    onnx.checker.check_model(content)
    assert [(entry.domain, entry.version) for entry in content.opset_import if not entry.domain] == [("", 17)]
    operators = {node.op_type for node in content.graph.node}
    assert not operators & NOT_READ
    [pixels], [rows] = content.graph.input, content.graph.output
    assert (pixels.name, rows.name) == ("input", "output")
    assert pixels.type.tensor_type.elem_type == rows.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert pixels.type.tensor_type.shape.dim[0].dim_param == "batch"


def of_requests(model: str, output: Path, **more: Any) -> BuildOptions:
    images = 3 if specs()[model].max_images is None else 1
    asked = {"vision_backend": "tensorrt", "table_precision": "fp32", "max_images": images, **more}
    return options(model, output, **asked)


@pytest.mark.parametrize("model", TABLES)
def test_requests_become_the_tables_that_the_python_step_makes(model: str, tmp_path: Path) -> None:
    """Any number of requests and images: constant rows first, then those of the entries, one after another."""
    asked = of_requests(model, tmp_path)
    assert main(arguments(asked)) == 0
    wanted, _ = subject(asked)
    plain, constants = towers.load(subject(options(model, tmp_path))[0])
    assert wanted.requests and wanted.rows
    shared = torch.zeros(0, wanted.hidden_size) if constants is None else constants.cpu()
    assert (wanted.requests.constant_rows, wanted.hidden_size) == tuple(shared.shape)
    for batch, images in itertools.product((1, 2), (1, min(2, wanted.requests.max_entries))):
        pixels = towers.sample(wanted, plain, batch).cpu()[:, :images]
        with torch.no_grad():
            rows = plain.cpu()(pixels.flatten(0, 1)).flatten(1, -2)
        truth = torch.stack([torch.cat([shared, *own]) for own in rows.split(images)])
        assert truth.shape[1] == len(shared) + images * wanted.rows
        tables = run(tmp_path / "model.onnx", pixels, "pixel_values")
        assert relative_error(tables, truth) < 1e-4
        assert np.array_equal(tables[:, : len(shared)], truth[:, : len(shared)].numpy())
    assert not list(tmp_path.glob("*.safetensors"))  # the constant rows are inside


@pytest.mark.parametrize("model", TABLES)
def test_the_file_of_requests_is_what_tensorrt_8_6_reads(model: str, tmp_path: Path) -> None:
    level = "uint8" if model in LEVELS else "float"
    asked = of_requests(model, tmp_path, precision="fp16", table_precision="fp32", pixels=level)
    assert main(arguments(asked)) == 0
    content = onnx.load(str(tmp_path / "model.onnx"))
    onnx.checker.check_model(content)
    assert not {node.op_type for node in content.graph.node} & NOT_READ
    [pixels], [rows] = content.graph.input, content.graph.output
    assert (pixels.name, rows.name) == ("pixel_values", "prompt_embedding_table")
    sizes = [dim.dim_param or dim.dim_value for dim in pixels.type.tensor_type.shape.dim]
    assert sizes == ["batch", "entries", *subject(asked)[0].entry_shape]
    types = (pixels.type.tensor_type.elem_type, rows.type.tensor_type.elem_type)
    own = onnx.TensorProto.UINT8 if level == "uint8" else onnx.TensorProto.FLOAT16
    assert types == (own, onnx.TensorProto.FLOAT)
    readers = [node.op_type for node in content.graph.node if pixels.name in node.input]
    assert level == "float" or readers == ["Cast"]  # TensorRT takes no other step with uint8


def test_levels_of_requests_give_the_same_tables(tmp_path: Path) -> None:
    asked = of_requests("llava-next", tmp_path, pixels="uint8")
    assert main(arguments(asked)) == 0
    wanted, _ = subject(asked)
    module, _ = towers.load(wanted)
    levels = towers.sample(wanted, module).cpu()
    with torch.no_grad():
        truth = module.cpu()(levels)
    assert relative_error(run(tmp_path / "model.onnx", levels, "pixel_values"), truth) < 1e-4


@pytest.mark.parametrize("model", LEVELS)
def test_levels_are_normalised_inside_to_the_same_values(model: str, tmp_path: Path) -> None:
    """The lookup equals what preprocessing sends, so the rows from levels are those from its pixels."""
    asked = options(model, tmp_path, pixels="uint8")
    assert main(arguments(asked)) == 0
    wanted, _ = subject(asked)
    module, _ = towers.load(wanted)
    levels = towers.sample(wanted, module).cpu()
    assert levels.dtype == torch.uint8 and levels.shape[-1] == 3
    numbers: Any = wanted.normalisation
    # As Hugging Face's processors compute, image by image, in numpy.
    scaled = (levels.numpy() * np.float64(numbers["rescale_factor"])).astype(np.float32)
    mean, std = np.float32(numbers["mean"]), np.float32(numbers["std"])
    normalised = torch.from_numpy(np.moveaxis((scaled - mean) / std, -1, -3).copy())
    inner: Any = module
    with torch.no_grad():
        truth = inner.tower.cpu()(normalised)
        assert torch.equal(module.cpu()(levels), truth)
    assert relative_error(run(tmp_path / "model.onnx", levels), truth) < 1e-4


@pytest.mark.parametrize("model", MODELS)
def test_weights_too_large_for_one_file_lie_beside_it(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(model, tmp_path / "made")
    assert main(arguments(asked)) == 0
    monkeypatch.setattr(onnx_file, "LARGEST_FILE", 0)
    large = tmp_path / "large" / "model.onnx"
    for _ in range(2):  # again over what is there
        assert main(arguments(replace(asked, output=large.parent))) == 0
    wanted, _ = subject(asked)
    module, _ = towers.load(wanted)
    pixels = towers.sample(wanted, module).cpu()
    assert np.array_equal(run(large, pixels), run(tmp_path / "made" / "model.onnx", pixels))
    graph = onnx.load(str(large), load_external_data=False).graph
    assert [info.name for info in graph.input] == [wanted.input]
    assert not {node.op_type for node in graph.node} & NOT_READ
    beside = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    size = 4 * sum(int(np.prod(tensor.dims)) for tensor in beside)
    assert size <= large.with_name("model.onnx.data").stat().st_size < size + 64 * len(beside)
    inside = {t.name for t in graph.initializer if np.prod(t.dims) > LARGEST} - {t.name for t in beside}
    assert not [node.name for node in graph.node if node.op_type in PRODUCTS and inside & set(node.input)]


def test_the_digest_sees_weights_structure_and_settings(tmp_path: Path) -> None:
    wanted, _ = subject(options("llava", tmp_path))
    again, _ = subject(options("llava", tmp_path / "elsewhere"))
    other, _ = subject(options("llava", tmp_path, max_batch_size=3))
    module, _ = towers.load(wanted)
    seen = {towers.digest(made, module, None, {}) for made in (wanted, again)}
    assert len(seen) == 1
    seen.add(towers.digest(other, module, None, {}))
    seen.add(towers.digest(wanted, module, None, {"tensorrt": "10"}))
    seen.add(towers.digest(wanted, module, torch.zeros(1, 4), {}))
    inner: Any = module
    inner.layers = [-3]  # another hidden state of the same weights
    seen.add(towers.digest(wanted, module, None, {}))
    with torch.no_grad():
        next(module.parameters()).flatten()[0] += 1
    seen.add(towers.digest(wanted, module, None, {}))
    assert len(seen) == 6


def test_refusals_name_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(arguments: list[str]) -> str:
        assert main(["build-vision", *arguments, "--output", str(tmp_path / "out")]) in (1, 2, 3)
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    llava = ["--model", "llava", "--hf-model-dir", str(cached("llava"))]
    assert "does not exist" in refused(["--model", "llava", "--hf-model-dir", str(tmp_path / "none")])
    assert "wrong-checkpoint" in refused(["--model", "vila", "--hf-model-dir", str(cached("llava"))])
    assert "TensorRT-LLM's own script" in refused(["--model", "vila1.5-40b", "--hf-model-dir", str(cached("vila"))])
    assert "part of its checkpoint" in refused([*llava, "--projector", str(tmp_path)])
    if importlib.util.find_spec("tensorrt") is None:
        assert "tensorrt cannot be imported" in refused(llava)
    phi3 = ["--model", "phi-3-vision", "--hf-model-dir", str(cached("phi-3-vision"))]
    assert "no-uint8-pixels" in refused([*phi3, "--pixels", "uint8", "--onnx-only"])
    native = ["--vision-backend", "tensorrt", "--onnx-only"]
    assert "LLaVA-1.5 takes 1 image per prompt, 2 asked" in refused([*llava, *native, "--max-images", "2"])
    fuyu = ["--model", "fuyu", "--hf-model-dir", str(cached("fuyu"))]
    assert "its images differ in shape" in refused([*fuyu, *native])
    assert "--max-images is for --vision-backend tensorrt" in refused([*llava, "--onnx-only", "--max-images", "1"])


def test_an_encoder_that_contradicts_its_config_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in cached("llava").iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    config["vision_feature_select_strategy"] = "full"  # the class token too: 577 rows where patches are 576
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    given = ["--model", "llava", "--hf-model-dir", str(folder), "--output", str(tmp_path / "out"), "--onnx-only"]
    assert main(["build-vision", *given]) == 1
    text = capsys.readouterr().err
    assert "577" in text and "576" in text
