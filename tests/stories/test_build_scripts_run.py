"""build_engines.sh run by bash, with stand-ins for git, python, trtllm-build and gen-repo that note how they are called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from generator import render
from generator.generate import decide
from generator.models import specs
from generator.options import Options

NOWHERE = Path("/nonexistent")
BASH = shutil.which("bash") or "bash"
HOSTILE = '/it\'s "quoted" {{ 7*7 }} $(touch x) `id` \\ ünïcode\n日本 ; rm -rf'
# Notes its arguments, one call a line, and makes what it was told to make. NAME_FAILS makes a program fail.
STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, sys
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps([name, *words]) + "\\n")
if name == os.environ.get("FAILS"):
    sys.exit(9)
made = [b for a, b in zip(words, words[1:]) if a in ("--output_dir", "--output")]
if words[:1] == ["clone"]:
    made = words[-1:]
if name != "gen-repo" or words[:1] == ["build-vision"]:
    for folder in made:
        os.makedirs(folder)
        pathlib.Path(folder, "config.json").write_text("{{}}")
"""


@dataclass
class Workshop:
    """A working directory with the script, stand-ins on PATH, and the examples of the release."""

    folder: Path
    script: Path

    def run(self, *steps: str, fails: str = "") -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "NOTES": str(self.notes),
            "FAILS": fails,
            "TENSORRT_LLM_EXAMPLES": str(self.folder / "examples of it"),
        }
        self.notes.write_text("")
        command = [BASH, str(self.script), *steps]
        return subprocess.run(command, cwd=self.folder / "work", env=environment, capture_output=True, text=True)

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.notes.read_text().splitlines()]

    @property
    def programs(self) -> list[str]:
        """Who was called, but for questions."""
        return [call[0] for call in self.calls if call[:2] != ["git", "lfs"]]


def workshop(folder: Path, **options: object) -> Workshop:
    made = Options(working_dir=NOWHERE, **options)  # type: ignore[arg-type]
    plan, _, _ = decide(made)
    content = render.top_level(plan, "build_engines.sh.jinja")
    for name in ("bin", "work", "repository"):
        (folder / name).mkdir(parents=True)
    script = folder / "repository" / "build_engines.sh"
    script.write_bytes(content)
    for name in ("git", "python3", "trtllm-build", "gen-repo"):
        program = folder / "bin" / name
        program.write_text(STAND_IN)
        program.chmod(0o755)
    for word in content.decode().split():
        if word.endswith((".py", ".txt")) and "/" in word and "$" not in word:
            place = folder / "examples of it" / word
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    spec = plan.spec
    for archive in (spec.checkpoint.archive, spec.checkpoint.projector):
        if archive:
            (folder / "work" / archive).touch()
    return Workshop(folder, script)


@pytest.mark.parametrize("release", ["0.14.0", "1.2.1"])
@pytest.mark.parametrize("model", specs())
def test_everything_is_built_once_and_in_order(model: str, release: str, tmp_path: Path) -> None:
    shop = workshop(tmp_path, model=model, release=release)
    done = shop.run()
    assert done.returncode == 0, done.stderr
    order = [call[0] for call in shop.calls if call[0] != "git" and "pip" not in call]
    assert order[0] == "python3" and order[1] == "trtllm-build" and order[-1] == "gen-repo", order
    last = shop.calls[-1]
    assert last[1] == "--model" and last[last.index("--output") + 1] == str(tmp_path / "repository")
    assert not list((tmp_path / "work").rglob("*.part"))

    again = shop.run()
    assert again.returncode == 0, again.stderr
    assert [call[0] for call in shop.calls if "pip" not in call] == ["gen-repo"]
    assert "exists: " in again.stdout


def test_the_tensorrt_backends_engine_is_built_for_its_requests(tmp_path: Path) -> None:
    shop = workshop(tmp_path, model="llava-next", vision_backend="tensorrt", max_batch_size=3, pixels="uint8")
    assert shop.run().returncode == 0
    [build] = [call for call in shop.calls if call[1] == "build-vision"]
    words = dict(zip(build[2::2], build[3::2], strict=True))
    assert (words["--vision-backend"], words["--max-batch-size"], words["--max-images"]) == ("tensorrt", "3", "1")
    assert (words["--precision"], words["--table-precision"], words["--pixels"]) == ("fp16", "fp16", "uint8")
    last = shop.calls[-1]
    assert last[last.index("--vision-backend") + 1] == "tensorrt"


def test_a_step_that_failed_leaves_nothing_and_is_run_again(tmp_path: Path) -> None:
    shop = workshop(tmp_path, model="llava", release="0.16.0")
    assert shop.run(fails="trtllm-build").returncode == 9
    assert shop.programs == ["git", "python3", "trtllm-build"]
    assert not (tmp_path / "work/tmp/trt_engines/llava-1.5-7b-hf/fp16/1-gpu").exists()
    assert shop.run().returncode == 0
    assert shop.programs == ["trtllm-build", "python3", "gen-repo"]


def test_each_step_can_be_run_alone(tmp_path: Path) -> None:
    shop = workshop(tmp_path, model="llava")
    for step, program in {"vision": "python3", "download": "git", "convert": "python3", "llm": "trtllm-build"}.items():
        assert shop.run(step).returncode == 0
        assert shop.programs == [program], step
    assert shop.run("llm", "generate").returncode == 0
    assert shop.programs == ["gen-repo"]
    wrong = shop.run("visoin")
    assert wrong.returncode == 1 and "no step 'visoin'" in wrong.stderr and not shop.programs


def test_missing_examples_and_archives_are_named(tmp_path: Path) -> None:
    shop = workshop(tmp_path, model="neva")
    shutil.rmtree(tmp_path / "examples of it")
    missing = shop.run("convert")
    assert missing.returncode == 1 and "models/core/gpt/convert_checkpoint.py is missing" in missing.stderr
    (tmp_path / "work/neva.nemo").unlink()
    archive = shop.run("download")
    assert archive.returncode == 1 and "neva.nemo is missing" in archive.stderr


def test_vila_is_not_built_from_a_path_that_its_converter_does_not_know(tmp_path: Path) -> None:
    shop = workshop(tmp_path, model="vila", path_map=(("tmp/hf_models/vila1.5-3b", "tmp/hf_models/three"),))
    done = shop.run("download")
    assert done.returncode == 1 and "must contain lower-case 'vila'" in done.stderr


@pytest.mark.parametrize("model", ["llava", "neva", "video-neva", "phi-3-vision"])
def test_hostile_paths_reach_every_command_as_they_are(model: str, tmp_path: Path) -> None:
    inside = str(tmp_path / "work") + HOSTILE
    shop = workshop(tmp_path, model=model, release="1.2.1", path_map=(("tmp", inside), ("/", inside)))
    done = shop.run()
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "work/x").exists()
    [llm] = [call for call in shop.calls if call[0] == "trtllm-build"]
    assert llm[llm.index("--output_dir") + 1].startswith(inside)
    assert any(word.startswith(inside) for word in shop.calls[-1])


def test_shellcheck_has_nothing_to_say(tmp_path: Path) -> None:
    """The script of every model, in releases of both layouts, plain and with everything asked for."""
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "install the dev extra"
    more = {"tp": 2, "name": "photos", "image_hosts": ("a.b",), "streaming": True, "kv_cache_reuse": True}
    native = {"vision_backend": "tensorrt"}
    scripts = []
    for model in specs():
        for release, options in (("0.14.0", {}), ("1.2.1", {}), ("1.2.1", more), ("1.1.0", native)):
            made = Options(model=model, release=release, working_dir=NOWHERE, **options)  # type: ignore[arg-type]
            plan, _, _ = decide(made)
            script = tmp_path / f"{model}-{release}-{len(options)}.sh"
            script.write_bytes(render.top_level(plan, "build_engines.sh.jinja"))
            subprocess.run([BASH, "-n", script], check=True)
            scripts.append(script)
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
