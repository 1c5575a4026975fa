"""Pre- and postprocessing need numpy, Pillow and a tokenizer library, whatever numpy the container has; nothing else."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.golden.repositories import ROOT

PROJECT = ROOT.parent
# av is imported when a video file comes, and its absence is then told to the client
ALLOWED = {"numpy", "PIL", "triton_python_backend_utils", "av"}
LIBRARY = {"tokenizers_text": "tokenizers", "sentencepiece_text": "sentencepiece"}
# Unit tests of the serving code that use no other package than these.
DIRECT = (
    "test_prompt", "test_images", "test_fetch", "test_pixels", "test_preprocessing", "test_postprocessing",
    "test_flattened_patches", "test_table_text",
)  # fmt: skip
PACKAGES = ("numpy>=2", "pillow", "tokenizers", "pytest", "hypothesis", "trustme")


@pytest.mark.parametrize("model", sorted(p.name for p in ROOT.iterdir()))
@pytest.mark.parametrize("step", ["preprocessing", "postprocessing"])
def test_generated_steps_import_nothing_else(model: str, step: str) -> None:
    folder = ROOT / model / step / "1"
    local = {path.stem for path in folder.glob("*.py")}
    assert "model" in local
    settings = json.loads((folder / "settings.json").read_text())
    allowed = ALLOWED | {LIBRARY[settings["tokenizer"]["module"]]}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            foreign = {name.split(".")[0] for name in names} - allowed - local - set(sys.stdlib_module_names)
            assert not foreign, f"{path}: {foreign}"


def test_serving_code_runs_under_numpy_2_with_nothing_else_installed(tmp_path: Path) -> None:
    """By direct call: the Python stub of the test server needs numpy 1, containers have their own."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    quiet = ["--disable-pip-version-check", "--quiet"]
    subprocess.run([python, "-m", "pip", "install", *quiet, *PACKAGES], check=True)
    files = [f"tests/unit/{name}.py" for name in DIRECT]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    version = subprocess.run(
        [python, "-c", "import numpy; print(numpy.__version__)"], check=True, capture_output=True, text=True
    ).stdout
    assert version.startswith("2.")
    assert " passed" in done.stdout.splitlines()[-1]
