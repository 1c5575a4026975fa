"""--vision-backend tensorrt: what is written, for which models, and what is refused with the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from generator import memory
from generator.check import check, configs
from generator.findings import Finding, Refused, has_errors
from generator.generate import Outcome, decide, generate
from generator.models import specs
from generator.options import Options
from generator.routes import ROUTES
from tests import engines

NOWHERE = Path("/nonexistent")
# Models whose vision step is no function of pixels alone, or whose images differ in shape.
PYTHON_ONLY = {"deplot", "nougat", "fuyu"}


def options(**more: Any) -> Options:
    return Options(**({"model": "llava", "vision_backend": "tensorrt", "working_dir": NOWHERE} | more))


def made(folder: Path, **more: Any) -> Outcome:
    outcome = generate(options(output=folder / "repository", **more))
    assert not outcome.failed, outcome.findings
    return outcome


def errors(**more: Any) -> list[Finding]:
    return [finding for finding in decide(options(**more))[2] if finding.level == "error"]


def test_the_step_is_the_engine_and_nothing_else(tmp_path: Path) -> None:
    output = made(tmp_path, model="vila", vision_gpus=(0, 1)).output
    step = output / "vision_encoder"
    assert {p.relative_to(step).as_posix() for p in step.rglob("*") if p.is_file()} == {"config.pbtxt", "1/.gitkeep"}
    assert (step / "config.pbtxt").read_text().partition("\n\n")[2] == (
        'name: "vision_encoder"\n'
        'platform: "tensorrt_plan"\n'
        'backend: "tensorrt"\n'
        "# In 1/, a link to the vision engine, which gen-repo makes once there is one.\n"
        'default_model_filename: "model.plan"\n'
        "max_batch_size: 8\n"
        "\n"
        'input { name: "pixel_values" data_type: TYPE_FP16 dims: [ -1, 3, 384, 384 ] }\n'
        'output { name: "prompt_embedding_table" data_type: TYPE_FP16 dims: [ -1, -1 ] }\n'
        "\n"
        "# Requests that wait go through the engine in one call, if they have as many images.\n"
        "dynamic_batching { }\n"
        "instance_group { count: 1 kind: KIND_GPU gpus: [ 0, 1 ] }\n"
    )


def test_only_what_an_engine_takes_is_sent_to_it(tmp_path: Path) -> None:
    output = made(tmp_path, model="vila", streaming=True, name="photos").output
    ensemble = configs.parse((output / "photos/config.pbtxt").read_text())
    pre, vision, *_ = ensemble.ensemble_scheduling.step
    assert vision.model_name == "photos_vision_encoder"
    assert dict(vision.input_map) == {"pixel_values": "_pixel_values"}
    assert dict(vision.output_map) == {"prompt_embedding_table": "_prompt_embedding_table"}
    assert not {"num_images", "num_rows"} & set(pre.output_map)
    front = json.loads((output / "photos_tensorrt_llm_bls/1/settings.json").read_text())
    assert front["vision_inputs"] == {"pixel_values": "pixel_values"}
    assert not {"num_images", "num_rows"} & set(front["preprocessing_outputs"])
    settings = json.loads((output / "photos_preprocessing/1/settings.json").read_text())
    assert settings["pixels"]["least_entries"] == 1


@pytest.mark.parametrize("model", [name for name in specs() if name not in PYTHON_ONLY])
def test_every_other_model_gives_a_valid_repository(model: str, tmp_path: Path) -> None:
    streams = ROUTES[specs()[model].routes[0]].streams
    output = made(tmp_path, model=model, streaming=streams).output
    findings = check(output)
    assert {finding.code for finding in findings} == {"not-servable-yet"}, findings
    assert any(finding.what == "not servable yet: the vision engine is missing" for finding in findings)
    config = configs.parse((output / "vision_encoder/config.pbtxt").read_text())
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert [tensor.name for tensor in config.input] == ["pixel_values"]
    assert not config.input[0].allow_ragged_batch  # which the backend reads as one axis without a batch
    script = (output / "build_engines.sh").read_text()
    limits = json.loads((output / "preprocessing/1/settings.json").read_text())["limits"]
    asked = f"--vision-backend tensorrt --max-batch-size {config.max_batch_size} --max-images {limits['max_images']} "
    assert f"    {asked}--table-precision " in script
    assert script.count("--vision-backend tensorrt") == 2  # it generates the same again


@pytest.mark.parametrize("model", sorted(PYTHON_ONLY))
def test_models_that_need_code_around_the_encoder_are_refused(model: str) -> None:
    [refusal] = errors(model=model)
    assert refusal.code == "vision-backend" and "cannot be the whole vision step" in refusal.what
    assert refusal.remedy == "use --vision-backend python"


@dataclass(frozen=True)
class Story:
    """An engine or option that does not go with the TensorRT backend: what is said."""

    name: str
    says: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    engine: Callable[[Path], Path] | None = None


def of_images(**more: Any) -> Callable[[Path], Path]:
    return lambda folder: engines.vision(folder, **more)


def of_requests(**more: Any) -> Callable[[Path], Path]:
    return lambda folder: engines.vision_of_requests(folder, **more)


BUILD_VILA = "gen-repo build-vision --model vila1.5-3b --hf-model-dir tmp/hf_models/vila1.5-3b --output D "
VILA = {"model": "vila", "max_images": 4}
STORIES = (
    Story("torch", ("--runtime torch the checkpoint",), {"runtime": "torch"}),
    Story("cache", ("the cache of rows is part of the Python step",), {"vision_cache": 1 << 30}),
    Story("deploy", ("has no TensorRT backend", "--container"), {"deploy": "kubernetes"}),
    Story("no export", ("cannot export vila1.5-40b",), {"model": "vila1.5-40b"}),
    Story(
        "several images",
        ("takes images one by one", "up to 4", f"{BUILD_VILA}--vision-backend tensorrt --max-batch-size 8 --max-images 4 "),
        VILA,
        of_images(model_type="vila", max_batch_size=32),
    ),
    Story("tiles", ("takes images one by one", "up to 5"), {"model": "llava-next"}, of_images(model_type="llava_next")),
    Story("types", ("rows of float16", "takes bfloat16"), {"model": "blip2-t5"}, of_images(model_type="blip2-t5")),
    Story("grid", ("as a grid",), {}, of_images(output_shape=[-1, 24, 24, 4096])),
    Story("batch", ("takes 4 requests in one call, the server sends up to 8",), {}, of_images(max_batch_size=4)),
    Story("requests", ("takes 4 requests in one call, the server sends up to 8",), {}, of_requests(max_batch_size=4)),
    Story("entries", ("takes 2 images (tiles) of a request, one has up to 4",), VILA, of_requests(max_entries=2, rows=196, model_type="vila")),
    Story("table", ("gives tables of float32, the LLM takes float16",), {}, of_requests(table_dtype="float32")),
    Story(
        "constants",
        ("tables have 0 constant rows, those of LLaVA-NeXT have 1",),
        {"model": "llava-next"},
        of_requests(max_entries=5, model_type="llava_next"),
    ),
    Story(
        "the Python step",
        ("takes whole requests", "a Python step sends images"),
        {"vision_backend": "python"},
        of_requests(),
    ),
)  # fmt: skip


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_what_does_not_go_together_is_refused(story: Story, tmp_path: Path) -> None:
    engine = story.engine(tmp_path / "vision") if story.engine else None
    found = errors(visual_engine_dir=engine, **story.options)
    text = " ".join(f"{finding.what} {finding.remedy}" for finding in found)
    assert {finding.code for finding in found} == {"vision-backend"}
    for phrase in story.says:
        assert phrase in text
    assert "--vision-backend" in text


def test_the_engine_is_linked_into_the_step(tmp_path: Path) -> None:
    engine = engines.vision_of_requests(tmp_path / "engines/vision", max_entries=4, rows=196, model_type="vila")
    asked = {**VILA, "visual_engine_dir": engine}
    output = made(tmp_path, **asked).output
    link = output / "vision_encoder/1/model.plan"
    assert link.is_symlink() and link.resolve() == engine / "model.engine"
    assert "edited-file" not in {finding.code for finding in check(output)}
    assert not generate(options(output=output, **asked)).written  # the same again
    link.unlink()
    assert [f.what for f in check(output) if f.code == "missing-file"] == [
        "vision_encoder/1/model.plan is missing since gen-repo wrote the repository"
    ]
    link.write_bytes(b"another engine")
    assert [f.what for f in check(output) if f.code == "edited-file"] == [
        "vision_encoder/1/model.plan is changed since gen-repo wrote the repository"
    ]
    assert generate(options(output=output, force=True, **asked)).written and link.is_symlink()


def test_the_link_leads_where_the_server_sees_the_engine(tmp_path: Path) -> None:
    engine = engines.vision_of_requests(tmp_path / "engines")
    output = made(tmp_path, visual_engine_dir=engine, path_map=((str(tmp_path), "/mnt"),)).output
    assert str((output / "vision_encoder/1/model.plan").readlink()) == "/mnt/engines/model.engine"
    [finding] = [f for f in check(output) if "model.plan" in str(f.where)]
    assert (finding.level, finding.code) == ("warning", "not-servable-yet")
    assert "'/mnt/engines/model.engine', which does not exist on this machine" in finding.what


@pytest.mark.parametrize(("release", "output"), [("0.16.0", "output"), ("1.2.1", "encoder_output")])
def test_an_engine_of_images_serves_where_a_request_has_one(release: str, output: str, tmp_path: Path) -> None:
    engine = engines.vision(tmp_path / "vision", max_batch_size=8, output_shape=[-1, 576, 4096])
    repository = made(tmp_path, visual_engine_dir=engine, release=release).output
    config = configs.parse((repository / "vision_encoder/config.pbtxt").read_text())
    [pixels], [rows] = config.input, config.output
    assert (pixels.name, list(pixels.dims), list(pixels.reshape.shape)) == ("input", [1, 3, 336, 336], [3, 336, 336])
    assert (rows.name, rows.HasField("reshape")) == (output, False)
    ensemble = configs.parse((repository / "ensemble/config.pbtxt").read_text())
    step = ensemble.ensemble_scheduling.step[1]
    assert dict(step.input_map) == {"input": "_pixel_values"}
    assert dict(step.output_map) == {output: "_prompt_embedding_table"}
    assert not has_errors(check(repository))


def test_check_compares_the_step_with_the_engine(tmp_path: Path) -> None:
    engine = engines.vision_of_requests(tmp_path / "vision")
    output = made(tmp_path, visual_engine_dir=engine).output
    engines.vision_of_requests(engine, max_batch_size=2)
    assert [f.what for f in check(output) if f.level == "error"] == [
        "the engine takes 2 requests in one call, max_batch_size is 8"
    ]
    engines.vision(engine, max_batch_size=8)
    assert [f.what for f in check(output) if f.level == "error"] == [
        "the engine takes images, and the step calls its input pixel_values"
    ]


def test_the_torch_runtime_takes_no_engine_of_either_form(tmp_path: Path) -> None:
    engine = engines.vision_of_requests(tmp_path / "vision")
    assert not errors(visual_engine_dir=engine, vision_backend="python", runtime="torch")


@pytest.mark.parametrize("section", [5, [1], {"max_entries": "4"}, {"rows": 576}, {"max_entries": 0, "rows": 1}])
def test_a_damaged_section_of_the_engines_config_is_named(section: object, tmp_path: Path) -> None:
    engine = engines.vision_of_requests(tmp_path / "vision")
    config = json.loads((engine / "config.json").read_text())
    config["gen_repo"]["requests"] = section
    (engine / "config.json").write_text(json.dumps(config))
    with pytest.raises(Refused, match=r"config-(invalid|incomplete)"):
        decide(options(visual_engine_dir=engine))


def test_levels_cross_to_the_engine(tmp_path: Path) -> None:
    output = made(tmp_path, pixels="uint8").output
    config = configs.parse((output / "vision_encoder/config.pbtxt").read_text())
    assert configs.schema().DataType.Name(config.input[0].data_type) == "TYPE_UINT8"
    assert list(config.input[0].dims) == [-1, 336, 336, 3]
    assert "--pixels uint8" in (output / "build_engines.sh").read_text()


def test_memory_of_a_step_in_the_servers_own_process() -> None:
    python, tensorrt = (decide(options(vision_backend=backend))[0] for backend in ("python", "tensorrt"))
    step, beside = memory.make(python), memory.make(tensorrt)
    to_be_sent = 3 * python.entries_per_call * memory.entry_rows(python)  # of the Python step's calls before
    assert step.vision_bytes - beside.vision_bytes == memory.CONTEXT + to_be_sent
    assert "vision_encoder" not in {term.name for term in beside.shm}
    assert step.host_bytes - beside.host_bytes >= memory.STEP_HOST
    apart = memory.make(decide(options(vision_gpus=(1,)))[0])
    assert apart.vision_bytes == step.vision_bytes - to_be_sent  # a context on a GPU of its own
