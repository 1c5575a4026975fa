"""The demo's parts that need no server: what it asks, pictures in the terminal, what it says when torch is missing."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from generator import demo, models, terminal_picture
from generator.cli import main


def test_checkpoints_come_with_gen_repo() -> None:
    assert demo.names()
    for name in demo.names():
        folder = demo.checkpoint(name)
        size = sum(file.stat().st_size for file in folder.rglob("*"))
        assert list(folder.rglob("*.safetensors")) and size < 6e6
        card = (folder / "README.md").read_text()
        assert "What it is not" in card
        for share in re.findall(r"[\d.]+%", demo.measured(name)):
            assert f"| {share} |" in card
        assert (folder / "training_log.jsonl").is_file()


def test_questions_are_about_no_more_pictures_than_the_model_takes() -> None:
    several, single = demo.questions(models.find("vila")[0]), demo.questions(models.find("llava")[0])
    assert len(single) >= 3 and all(len(shown.pictures) == 1 for shown in single)
    assert max(len(shown.pictures) for shown in several) == 2
    assert all(picture.is_file() for shown in several for picture in shown.pictures)


def test_two_pixels_are_one_character() -> None:
    picture = Image.new("RGB", (2, 2), (1, 2, 3))
    picture.putpixel((1, 1), (255, 0, 9))
    same = "\x1b[38;2;1;2;3m\x1b[48;2;1;2;3m▀"
    assert terminal_picture.blocks(picture, 2) == same + "\x1b[38;2;1;2;3m\x1b[48;2;255;0;9m▀\x1b[0m"
    wide = terminal_picture.blocks(Image.new("RGB", (400, 100)), 40)
    assert wide.count("▀") == 40 * 5 and len(wide.splitlines()) == 5


def test_without_colours_the_files_name_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.png"
    Image.new("RGB", (4, 4)).save(file)
    monkeypatch.setenv("COLORTERM", "truecolor")
    terminal_picture.show(file)
    assert capsys.readouterr().out == f"{file}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal_picture.show(file)
    assert "▀" in capsys.readouterr().out
    monkeypatch.setenv("COLORTERM", "no")
    terminal_picture.show(file)
    assert capsys.readouterr().out == f"{file}\n"


def test_missing_torch_is_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec

    def absent(name: str, *rest: Any) -> Any:
        return None if name == "torch" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    assert main(["demo"]) == 3
    said = capsys.readouterr()
    assert said.out == "" and "not installed: torch" in said.err and "gen-repo[torch,serve]" in said.err


def test_a_model_without_checkpoint_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "names", lambda: ["vila"])
    assert main(["demo", "--model", "llava"]) == 1
    said = capsys.readouterr().err
    assert "no trained checkpoint of llava" in said and "use --model vila" in said


def test_commands_name_the_servers_addresses() -> None:
    server: Any = SimpleNamespace(grpc="127.0.0.1:7001", http="127.0.0.1:7000")
    shown = demo.questions(models.find("vila")[0])[0]
    lines = [line.strip() for line in demo.how_to_ask(server, shown).splitlines()]
    words = shlex.split(next(line for line in lines if line.startswith("gen-repo ask")))
    assert words[words.index("--url") + 1] == server.grpc and words[words.index("--text") + 1] == shown.question
    assert any("http://127.0.0.1:7000/v2/models/ensemble/generate" in line for line in lines)
