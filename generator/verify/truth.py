"""The oracle of a user's checkpoint."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from generator.facts import checkpoint as facts
from generator.findings import EXIT_ENVIRONMENT, Refused, error
from generator.verify.repository import Repository

if TYPE_CHECKING:
    from generator.oracle.common import Checkpoint, Oracle

NEEDED = ("torch", "transformers", "safetensors", "PIL", "numpy", "tritonclient")


def check_packages() -> None:
    """Raises Refused when a package is missing that the oracles, or asking the server, need."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        what = f"Hugging Face's answers need packages that are not installed: {', '.join(missing)}"
        remedy = "pip install 'gen-repo[torch,serve]'"
        raise Refused(error("verify", what, sys.executable, remedy), exit_code=EXIT_ENVIRONMENT)


def check_checkpoint(folder: Path, repository: Repository) -> None:
    """Raises Refused when there is none, or it is another model's: before a server is started for it."""
    spec = repository.spec
    if not (folder.is_dir() or (spec.checkpoint.archive and folder.is_file())):
        kind = "file or directory" if spec.checkpoint.archive else "directory"
        what = f"--hf-model-dir names no {kind}: {str(folder)!r}"
        raise Refused(error("no-such-directory", what, "--hf-model-dir", "correct the path"))
    if not spec.checkpoint.archive:
        facts.read(folder, spec, repository.variant)


def oracle(checkpoint: Checkpoint, repository: Repository) -> Oracle:
    """The oracle of the repository's model over `checkpoint`. Raises Refused when it cannot be loaded."""
    evidence, variant = repository.spec.evidence, repository.variant
    module, name = evidence.truth.split(":")
    kind: type[Oracle] = getattr(importlib.import_module(f"generator.oracle.{module}"), name)
    try:
        return kind.of(replace(checkpoint, conversation=variant.conversation.name))
    except (OSError, ValueError, KeyError, RuntimeError) as problem:  # what transformers and safetensors raise
        what = f"the checkpoint cannot be loaded as {evidence.oracle}: {type(problem).__name__}: {problem}"
        remedy = f"give the checkpoint of {variant.name} with --hf-model-dir, and what it needs beside it"
        raise Refused(error("verify", what, checkpoint.folder, remedy)) from problem
