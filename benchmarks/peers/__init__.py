"""Repositories to measure: ours of tiny LLaVA on the torch runtime, and its steps as they are usually written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from string import Template

from generator.generate import generate
from generator.options import Options
from tests.checkpoints import cached

HERE = Path(__file__).parent
MODEL = "llava"  # the usual way has a processor for it: the original VILA has none in transformers


def ours(folder: Path) -> Path:
    """A repository of tiny LLaVA, whose pre- and postprocessing are those of the full-size model but for the words."""
    outcome = generate(Options(model=MODEL, hf_model_dir=cached(MODEL), runtime="torch", output=folder, max_tokens=64))
    if outcome.failed:
        raise SystemExit("\n".join(map(str, outcome.findings)))
    return folder


def our_steps(repository: Path, folder: Path, steps: tuple[str, ...]) -> None:
    """Some steps of our repository as a repository of their own."""
    for step in steps:
        shutil.copytree(repository / step, folder / step)


def usual_steps(repository: Path, folder: Path, steps: tuple[str, ...]) -> None:
    """The usual way of those steps, called `usual_<step>`, with as many instances as ours of `repository` have."""
    settings = json.loads((repository / "preprocessing/1/settings.json").read_text())
    for step in steps:
        config = (repository / step / "config.pbtxt").read_text()
        values = {
            "tokenizer_dir": str(cached(MODEL)),
            "vocab_size": str(settings["tokenizer"]["vocab_size"]),
            "instances": config.rpartition("instance_group { count: ")[2].split()[0],
        }
        name = f"usual_{step}"
        shutil.copytree(HERE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        file = folder / name / "config.pbtxt"
        file.write_text(Template(file.read_text()).substitute(values))
