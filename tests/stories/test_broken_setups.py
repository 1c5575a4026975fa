"""Each broken set-up gives exactly its errors, with both values and a remedy, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from generator.cli import main
from tests import engines
from tests.stories.broken_setups import CONSOLE, STORIES, Story, both, console, section


def test_there_are_enough_and_each_has_its_name() -> None:
    assert len({story.name for story in STORIES}) == len(STORIES) >= 25


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_broken_setup(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "repository"
    code = main(["--model", story.model, "--output", str(output), "--json", *story.setup(tmp_path)])
    findings = json.loads(capsys.readouterr().out)["findings"]
    errors = [finding for finding in findings if finding["level"] == "error"]
    assert [finding["code"] for finding in errors] == story.code.split(), findings
    text = " ".join(errors[0].values())
    for phrase in story.says:
        assert phrase in text, text
    assert all(finding["remedy"] for finding in errors)
    assert code == story.exit_code
    assert not output.exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_console_says_it_as_it_did(story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole text; make goldens writes it again, and the difference is to be read."""
    monkeypatch.chdir(tmp_path)
    code, text = console(story, tmp_path)
    assert code == story.exit_code
    assert section(story, text) in CONSOLE.read_text()


def test_errors_of_both_engines_are_reported_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "l").mkdir()
    arguments = ["--visual-engine-dir", str(tmp_path / "v"), "--llm-engine-dir", str(tmp_path / "l")]
    assert main(["--model", "llava", "--output", str(tmp_path / "o"), *arguments]) == 1
    text = capsys.readouterr().err
    assert text == (
        f"error[config-missing]: config.json of the vision engine is missing\n"
        f"  where:  {tmp_path}/v/config.json\n"
        f"  remedy: --visual-engine-dir: build it with build_engines.sh, or point the option at the folder that holds "
        f"config.json and the engine\n"
        f"error[config-missing]: config.json of the LLM engine is missing\n"
        f"  where:  {tmp_path}/l/config.json\n"
        f"  remedy: --llm-engine-dir: build it with build_engines.sh, or point the option at the folder that holds "
        f"config.json and the engine\n"
    )


def test_engines_that_fit_are_accepted_with_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = both(
        lambda f: engines.vision(f, model_type="vila"),
        lambda f: engines.llm(f, table=8 * 196 * 3, max_input_len=1500, **engines.VILA_LLM),  # type: ignore[arg-type]
    )
    output = tmp_path / "repository"
    assert main(["--model", "vila", "--output", str(output), *make(tmp_path)]) == 0
    settings = json.loads((output / "preprocessing/1/settings.json").read_text())
    assert settings["limits"]["max_images"] == 3
    assert settings["limits"]["max_table_rows"] == 588
    assert settings["limits"]["max_input_len"] == 1500
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["release"] == "0.16.0"
    assert "requests are limited to 3" in capsys.readouterr().err
