"""What a repository needs of a machine: its manifest's numbers, and what its steps' code imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator import manifest
from generator.facts import jsonfile
from generator.findings import Refused, error

AGAIN = "generate the repository again"
# Given by the server itself.
BACKEND = {"triton_python_backend_utils", "c_python_backend_utils"}


@dataclass(frozen=True)
class Needs:
    """What doctor compares a machine with; sizes in bytes.

    Attributes:
        numbers: the manifest's section `machine`, see manifest.machine.
        modules: name of a module that a step cannot be loaded without -> that step.
        engines: what -> path as the server sees it.
        ports: service -> number.
    """

    repository: Path
    runtime: str
    release: str
    numbers: Mapping[str, Any]
    modules: Mapping[str, str]
    engines: Mapping[str, Path]
    ports: Mapping[str, int]

    @property
    def on_gpu(self) -> bool:
        return self.runtime == "trtllm"

    @property
    def asked_modules(self) -> set[str]:
        return {*self.modules, "numpy", *({"tensorrt_llm", "tensorrt"} if self.on_gpu else ())}


def read(repository: Path, ports: Mapping[str, int]) -> Needs:
    """The needs of a repository.

    Raises:
        Refused: it is no repository of ours, or one of a version that did not write down its needs.
    """
    content = manifest.of(repository)
    numbers = content.get("machine")
    if not isinstance(numbers, dict) or "llm_gpus" not in numbers:  # written before there was such a list
        what = f"the manifest, of gen-repo {content.get('version')}, does not say what machine it needs"
        raise Refused(error("no-needs", what, repository / manifest.NAME, AGAIN))
    modules: dict[str, str] = {}
    for code in sorted(repository.glob("*/1")):
        for module in _imported(code):
            modules.setdefault(module, code.parent.name)
    return Needs(
        repository=repository,
        runtime=str(content.get("runtime")),
        release=str(content.get("release")),
        numbers=numbers,
        modules=modules,
        engines=_engines(repository, numbers),
        ports=ports,
    )


def _imported(code: Path) -> Iterator[str]:
    """Modules from elsewhere that a step imports when it is loaded; what functions import is optional."""
    local = {path.stem for path in code.glob("*.py")}
    for path in sorted(code.glob("*.py")):
        try:
            body = ast.parse(path.read_text("utf-8")).body
        except (SyntaxError, ValueError) as problem:
            raise Refused(error("syntax", f"this is no Python source: {problem}", path, AGAIN)) from None
        for node in _loaded(body):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in (name.split(".")[0] for name in names):
                if name not in local | BACKEND and name not in sys.stdlib_module_names:
                    yield name


def _loaded(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in body:
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.level == 0):
            yield node
        elif isinstance(node, ast.Try) and any(isinstance(n, ast.Raise) for h in node.handlers for n in h.body):
            yield from _loaded(node.body)


def _engines(repository: Path, numbers: Mapping[str, Any]) -> dict[str, Path]:
    found = {"the LLM engine": Path(str(numbers["llm_engine"]))} if numbers.get("llm_engine") else {}
    if numbers.get("vision_engine"):
        found["the vision engine"] = repository / str(numbers["vision_engine"])
    for path in sorted(repository.glob("*/1/settings.json")):
        settings = jsonfile.read(path, "settings.json", AGAIN)
        for key, what in (("checkpoint", "the checkpoint"), ("engine", f"the engine of {path.parts[-3]}")):
            if key in settings:
                found.setdefault(what, Path(str(settings[key])))
        constants = settings.get("constants") or {}
        if "file" in constants:
            found["the file of constant rows beside the vision engine"] = Path(str(constants["file"]))
    return found
