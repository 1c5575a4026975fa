"""`gen-repo verify` against running servers: all equal with their own checkpoint; with another, the right stage named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from generator import cli, models
from generator.evidence import Acceptance
from generator.findings import Refused
from generator.verify import command
from generator.verify.stages import STAGES
from tests import photos
from tests.parity.conftest import SUBJECTS, Served


def verified(served: Served, checkpoint: Path | None = None, **others: object) -> command.Verified:
    folder = checkpoint or served.subject.path
    wanted = command.Verify(served.folder, folder, url=served.grpc, max_tokens=8, **others)  # type: ignore[arg-type]
    return command.run(wanted, tell=lambda line: None)


def test_every_stage_equals_the_own_checkpoint(served: Served) -> None:
    found = verified(served)
    assert found.right and found.first_deviation is None
    shown = {len(question.media) for question, _ in found.stages}
    assert shown == set(served.subject.images) & {0, 1, 2}
    for question, stages in found.stages:
        assert [stage.name for stage in stages] == list(STAGES)
        assert {stage.verdict for stage in stages} == {"equal"}, (question, stages)


def test_a_streaming_repository(streaming: Served) -> None:
    found = verified(streaming)
    assert found.right
    assert {stage.verdict for _, stages in found.stages for stage in stages} == {"equal"}


def _json(name: str, key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        assert key in content
        (folder / name).write_text(json.dumps(content | {key: value}))

    return change


def _weight(part: str) -> Callable[[Path], None]:
    """Turns the rows of one matrix round, which keeps its size and its values."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        [name] = [one for one in weights if one.endswith(part)]
        weights[name] = weights[name].flip(0).contiguous()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def _template(folder: Path) -> None:
    file = folder / "chat_template.json"
    text = file.read_text()
    assert text.count("| upper") == 1
    file.write_text(text.replace("| upper", "| title"))


CHANGES = {
    "ids": _template,
    "pixels": _json("preprocessor_config.json", "image_mean", [0.5, 0.5, 0.5]),
    "vision rows": _weight("multi_modal_projector.linear_1.weight"),
    "first token": _weight("lm_head.weight"),
}


@pytest.mark.parametrize("served", ["llava"], indirect=True)
@pytest.mark.parametrize("stage", CHANGES)
def test_the_first_stage_that_deviates_is_named(served: Served, stage: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(served.subject.path, other)
    CHANGES[stage](other)
    found = verified(served, other)
    assert found.first_deviation is not None and found.first_deviation[1].name == stage
    _, stages = found.stages[0]
    before = stages[: STAGES.index(stage)]
    assert {one.verdict for one in before} <= {"equal"}


@pytest.mark.parametrize("served", ["llava"], indirect=True)
def test_the_command(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(photos.encoded("china"))
    asked = ["verify", str(served.folder), "--url", served.grpc, "--image", str(photo), "--max-tokens", "4"]
    given = ["--hf-model-dir", str(served.subject.path)]
    assert cli.main([*asked, *given, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["right"] and len(result["questions"]) == 1 and result["acceptance"] is None

    assert cli.main([*asked, "--acceptance"]) == 1  # no checkpoint needed; a tiny random model knows no city
    printed = capsys.readouterr().out
    assert "WRONG" in printed and "'singapore'" in printed

    spec, variant = models.find("llava")
    text = served.oracle.generate("Say it", [photos.encoded("china")], 4)[1]
    expected = Acceptance("a photograph", "Say it", (text.lower().strip(),), exact=True, max_tokens=4)
    knowing = replace(spec, evidence=replace(spec.evidence, acceptance=expected))
    monkeypatch.setattr(models, "find", lambda name: (knowing, variant))
    assert cli.main([*asked, "--acceptance"]) == 0
    assert "right" in capsys.readouterr().out


@pytest.mark.parametrize("served", ["llava"], indirect=True)
def test_refusals(served: Served, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"model_type is 'kosmos-2', LLaVA-1.5 has 'llava'"):
        verified(served, SUBJECTS["kosmos-2"].path)
    with pytest.raises(Refused, match="--hf-model-dir names no directory"):
        verified(served, tmp_path / "nowhere")
    without_weights = tmp_path / "checkpoint"
    shutil.copytree(served.subject.path, without_weights, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(Refused, match=r"(?s)cannot be loaded.*remedy: give the checkpoint of llava-1.5-7b-hf"):
        verified(served, without_weights)
    with pytest.raises(Refused, match="nothing to compare with"):
        command.run(command.Verify(served.folder, None, url=served.grpc), tell=print)
    with pytest.raises(Refused, match=r"(?s)merlion\.png.*--image FILE"):
        command.run(command.Verify(served.folder, None, url=served.grpc, acceptance=True), tell=print)
    with pytest.raises(Refused, match="no manifest"):
        command.run(command.Verify(tmp_path, served.subject.path), tell=print)


def test_weights_in_several_files_are_read_as_one(tmp_path: Path) -> None:
    from generator.oracle.common import weights_of

    parts = {"a.safetensors": {"one": torch.ones(2)}, "b.safetensors": {"two": torch.zeros(3)}}
    for file, weights in parts.items():
        save_file(weights, tmp_path / file)
    index = {name: file for file, weights in parts.items() for name in weights}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert set(weights_of(tmp_path)) == {"one", "two"}


@pytest.mark.parametrize("served", ["llava"], indirect=True)
@pytest.mark.parametrize("ask", ["verify", "openai"])
def test_a_server_of_another_repository(
    served: Served, ask: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(repository: Path) -> str:
        words = [ask, str(repository), "--url", served.grpc]
        words += ["--hf-model-dir", str(served.subject.path)] if ask == "verify" else []
        assert cli.main(words) == 3
        return capsys.readouterr().err

    edited = tmp_path / "edited"
    shutil.copytree(served.folder, edited, symlinks=True)
    listed = json.loads((edited / "manifest.json").read_text())
    vision, post = listed["models"]["vision_encoder"], listed["models"]["postprocessing"]
    config = edited / vision / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "prompt_embedding_table"', 'name: "table"'))
    found = asked(edited)
    assert f"has another repository loaded than {edited}: {vision}'s output prompt_embedding_table is" in found
    assert "there, none here" in found and "--url" in found
    shutil.copy(served.folder / vision / "config.pbtxt", config)
    (edited / post).rename(edited / f"our_{post}")
    assert "config.pbtxt cannot be read" in asked(edited)
    listed["models"]["postprocessing"] = f"our_{post}"
    (edited / "manifest.json").write_text(json.dumps(listed))
    assert f"it has no our_{post}" in asked(edited)
