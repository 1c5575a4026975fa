"""Where the font of a question comes from, and what a checkpoint must state for a model that reads drawn questions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import text_tokenizer

from generator.check import check
from generator.facts import font
from generator.findings import Refused
from generator.generate import Outcome, decide, generate
from generator.options import Options
from tests import charts
from tests.checkpoints import cached

FONT = "preprocessing/1/header_font.ttf"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(cached("deplot"), tmp_path / "checkpoint"))


def made(checkpoint: Path, **options: Any) -> Outcome:
    output = checkpoint.parent / "repository"
    return generate(Options("deplot", hf_model_dir=checkpoint, runtime="torch", output=output, force=True, **options))


def codes(outcome: Outcome) -> set[str]:
    return {finding.code for finding in outcome.findings} - {"unknown-size"}  # tiny checkpoints are


def test_a_font_of_the_user(checkpoint: Path) -> None:
    given = checkpoint.parent / "given.otf"
    given.write_bytes(charts.font_bytes())
    outcome = made(checkpoint, header_font=given)
    assert not codes(outcome) and not check(outcome.output)
    assert (outcome.output / FONT).read_bytes() == charts.font_bytes()
    first = json.loads((outcome.output / "manifest.json").read_text())
    assert first["servable"] and FONT in first["files"]
    given.write_bytes(charts.font_bytes() + b"\0")
    again = json.loads((made(checkpoint, header_font=given).output / "manifest.json").read_text())
    assert again["facts"] != first["facts"]


def test_the_font_in_the_checkpoint(checkpoint: Path) -> None:
    (checkpoint / "Arial.TTF").write_bytes(charts.font_bytes())
    outcome = made(checkpoint)
    assert not codes(outcome) and (outcome.output / FONT).read_bytes() == charts.font_bytes()


def test_without_a_font_nothing_is_servable(checkpoint: Path) -> None:
    outcome = made(checkpoint)
    [finding] = [f for f in outcome.findings if f.code == "not-servable-yet"]
    assert codes(outcome) == {"not-servable-yet"} and "(Arial): give it with --header-font" in finding.what
    assert not (outcome.output / FONT).exists()
    assert [f.code for f in check(outcome.output)] == ["not-servable-yet"]


@pytest.mark.parametrize(
    ("content", "code"), [(b"<html>not found</html>", "font-invalid"), (b"", "font-invalid"), (None, "font-unreadable")]
)
def test_what_is_no_font(content: bytes | None, code: str, tmp_path: Path) -> None:
    file = tmp_path / "Arial.ttf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Refused) as refused:
        decide(Options("deplot", header_font=file, working_dir=tmp_path, runtime="torch"))
    [finding] = refused.value.findings
    assert finding.code == code and finding.where == str(file) and "Arial" in finding.remedy


def test_kinds_of_font_files(tmp_path: Path) -> None:
    for magic in (b"\x00\x01\x00\x00", b"OTTO", b"ttcf", b"true"):
        (tmp_path / "font.bin").write_bytes(magic + b"rest")
        assert font.read(tmp_path / "font.bin").content == magic + b"rest"


def test_models_that_draw_nothing_take_no_font(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        decide(Options("llava", header_font=tmp_path / "x.ttf", working_dir=tmp_path))
    assert [finding.code for finding in refused.value.findings] == ["no-header-font"]


@pytest.mark.parametrize(
    ("key", "value"), [("is_vqa", False), ("max_patches", 1024), ("patch_size", {"height": 14, "width": 14})]
)
def test_a_processor_that_is_set_up_differently(key: str, value: object, checkpoint: Path) -> None:
    path = checkpoint / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(Refused) as refused:
        made(checkpoint)
    [finding] = refused.value.findings
    assert finding.code == "processor-differs" and key in finding.what and repr(value) in finding.what


def test_newlines_are_no_spelled_bytes(checkpoint: Path) -> None:
    """Pieces of bytes stand in the vocabulary, but T5's tokenizer only spells them out."""
    from tokenizers import Tokenizer

    folder = made(checkpoint).output / "postprocessing/1"
    served = text_tokenizer.load(folder, json.loads((folder / "settings.json").read_text())["tokenizer"], "deplot")
    own = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ids = [*own.encode("Year | Sales").ids[:-1], own.token_to_id("<0x0A>"), *own.encode("2019 | 12").ids]
    assert served.decode(ids) == own.decode(ids).replace("<0x0A>", "\n") and "\n" in served.decode(ids)
