"""A wheel, installed into an empty environment, generates the goldens from any folder."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.golden.repositories import ROOT
from tests.golden.test_goldens import tree

PROJECT = ROOT.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gen-repo command of a fresh environment that holds the wheel and its dependencies, nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, PROJECT], check=True)
    venv.create(folder / "env", with_pip=True)
    wheel = next(folder.glob("gen_repo-*.whl"))
    subprocess.run([folder / "env/bin/python", *pip[1:], "install", wheel], check=True)
    return folder / "env/bin/gen-repo"


@pytest.mark.parametrize("model", sorted(p.name for p in ROOT.iterdir()))
def test_installed_wheel_writes_the_goldens(installed: Path, model: str, tmp_path: Path) -> None:
    subprocess.run([installed, "--model", model], check=True, cwd=tmp_path, capture_output=True)
    assert tree(tmp_path / "model_repos" / model) == tree(ROOT / model)


def test_core_dependencies_are_few(installed: Path) -> None:
    listed = subprocess.run(
        [installed.with_name("python"), "-m", "pip", "list", "--format=freeze"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {line.split("==")[0].lower() for line in listed.splitlines()}
    assert names <= {"gen-repo", "gen_repo", "jinja2", "markupsafe", "pip", "setuptools", "wheel"}, names
