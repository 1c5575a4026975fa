"""Python steps: the code is there, it parses, every module it imports beside it exists, and settings agree."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from generator.check.configs import ModelConfig, there
from generator.facts import jsonfile
from generator.findings import Finding, Refused, error, warning

AGAIN = "generate the repository again"
# What the serving containers have; everything else must lie beside model.py.
INSTALLED = {
    "numpy", "PIL", "tokenizers", "torch", "transformers", "tensorrt", "tensorrt_llm", "safetensors",
    "triton_python_backend_utils", "simplejpeg", "av", "sentencepiece", "yaml", "c_python_backend_utils", "accelerate",
}  # fmt: skip


def check(repository: Path, configs: Mapping[str, ModelConfig]) -> list[Finding]:
    """Findings about the Python steps of a repository."""
    findings: list[Finding] = []
    for name, config in configs.items():
        if config.backend != "python":
            continue
        code = repository / name / "1"
        if not (code / "model.py").is_file():
            findings.append(error("no-model-py", "the Python model has no model.py", code, AGAIN))
            continue
        findings += _imports(code)
        findings += _settings(code)
    return findings


def _imports(code: Path) -> list[Finding]:
    findings = []
    paths = sorted(code.glob("*.py"))
    local = {path.stem for path in paths}
    for path in paths:
        try:
            imported = _imported(path.read_text("utf-8"))
        except SyntaxError as problem:
            findings.append(error("syntax", f"line {problem.lineno}: {problem.msg}", path, AGAIN))
            continue
        except ValueError as problem:  # no UTF-8, or a NUL
            findings.append(error("syntax", f"this is no Python source: {problem}", path, AGAIN))
            continue
        findings += [
            error("no-module", f"imports {module!r}, which is not there", path, AGAIN)
            for module in imported
            if module not in local | INSTALLED and module not in sys.stdlib_module_names
        ]
    return findings


@lru_cache(maxsize=1024)  # steps have files in common
def _imported(source: str) -> tuple[str, ...]:
    """The top-level packages and modules that a source imports, wherever in it. Raises SyntaxError, ValueError."""
    found = []
    for node in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.append(node.module)
    return tuple(name.split(".")[0] for name in found)


def _statements(tree: ast.AST) -> list[ast.AST]:
    """All nodes of `tree`, but for expressions: they are most of a source, and import nothing."""
    found = [tree]
    for node in found:  # which grows meanwhile
        found += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
    return found


def _settings(code: Path) -> list[Finding]:
    path = code / "settings.json"
    if not path.is_file():
        return [error("no-settings", "the step has no settings.json", path, AGAIN)]
    try:
        values: dict[str, Any] = jsonfile.read(path, "settings.json", AGAIN)
    except Refused as refused:
        return list(refused.findings)
    findings: list[Finding] = []
    tokenizer = values.get("tokenizer")
    if isinstance(tokenizer, dict) and not there(code / str(tokenizer.get("file")), file=True):
        what = f"not servable yet: the step's {tokenizer.get('file')} is missing"
        findings.append(warning("not-servable-yet", what, code, "generate again with --hf-model-dir"))
    media = values.get("media")
    if isinstance(media, dict) and "font" in media and not there(code / str(media["font"]), file=True):
        what = f"not servable yet: the font of questions, {media['font']}, is missing"
        findings.append(warning("not-servable-yet", what, code, "generate again with --header-font"))
    for key in ("checkpoint", "engine"):
        if key in values and not there(Path(str(values[key]))):
            what = f"not servable here: {values[key]!r} does not exist on this machine"
            findings.append(warning("not-servable-yet", what, path, "build or mount it, or check inside the container"))
    limits = values.get("limits")
    if isinstance(limits, dict):
        findings += _limits(path, limits, values)
    return findings


def _limits(path: Path, limits: dict[str, Any], values: dict[str, Any]) -> list[Finding]:
    """The arithmetic between the limits: prompt, image rows and answer must fit into one sequence."""
    rows = values.get("rows_per_image", 0)
    findings = []
    if limits["max_images"] * rows > limits["max_table_rows"]:
        what = f"{limits['max_images']} images of {rows} rows exceed max_table_rows {limits['max_table_rows']}"
        findings.append(error("limits", what, path, AGAIN))
    if limits.get("max_output_len"):  # the decoder does not read the prompt
        return findings
    if rows > limits["max_input_len"]:
        what = f"one image of {rows} rows exceeds max_input_len {limits['max_input_len']}"
        findings.append(error("limits", what, path, AGAIN))
    if limits["max_input_len"] >= limits["max_seq_len"]:
        lengths = f"max_input_len {limits['max_input_len']}", f"max_seq_len {limits['max_seq_len']}"
        what = f"{lengths[0]} leaves no room for an answer in {lengths[1]}"
        findings.append(error("limits", what, path, AGAIN))
    if limits["default_max_tokens"] + rows > limits["max_seq_len"]:
        what = (
            f"an image of {rows} rows and the default answer of {limits['default_max_tokens']} tokens exceed "
            f"max_seq_len {limits['max_seq_len']}"
        )
        findings.append(warning("limits", what, path, "generate again with a smaller --max-tokens"))
    return findings
