"""The README's copy of `gen-repo --help`, and the tables of models, which come from the specs.

python -m tests.golden.readme            says whether it is current
python -m tests.golden.readme --write    makes it so
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from generator.models import specs
from generator.routes import ROUTES
from generator.spec import ModelSpec, Variant

ROOT = Path(__file__).resolve().parents[2]


def current() -> dict[Path, str]:
    """README.md and docs/models.md with today's help text and models in their places."""
    blocks = {
        ROOT / "README.md": {"help": f"```\n{help_text().rstrip()}\n```", "models": short_table()},
        ROOT / "docs/models.md": {"models": model_table()},
    }
    return {file: _filled(file, texts) for file, texts in blocks.items()}


def _filled(file: Path, texts: dict[str, str]) -> str:
    content = file.read_text()
    for name, text in texts.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        content, found = block.subn(lambda m, text=text: f"{m[1]}{text}\n{m[2]}", content)
        if found != 1:
            raise ValueError(f"{file} has {found} blocks {name}")
    return content


def help_text() -> str:
    environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "generator", "--help"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def short_table() -> str:
    """One line per model: what a reader needs to know whether gen-repo is for them."""
    head = ("model", "variants", "a prompt takes", "streams", "compared with")
    return _table(head, [_short_row(spec) for spec in specs().values()])


def _short_row(spec: ModelSpec) -> tuple[str, ...]:
    usable = ", ".join(variant.name for variant in spec.variants if not variant.refused)
    usual, *others = (ROUTES[name].streams for name in spec.routes)
    streams = "yes" if usual else f"with `--route {spec.routes[1]}`" if any(others) else "no"
    truth = spec.evidence.oracle.split(":")[0] + (" and its original code" if spec.evidence.original else "")
    return f"`{spec.name}`", usable, _number(spec), streams, truth


def model_table() -> str:
    """One line per model."""
    head = ("model", "variants", "takes", "LLM routes", "truth", "ran here")
    return _table(head, [_row(spec) for spec in specs().values()])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def _row(spec: ModelSpec) -> tuple[str, ...]:
    variants = ", ".join(_variant(variant) for variant in spec.variants)
    routes = ", ".join(f"`{name}`" + " (opt-in, experimental)" * ROUTES[name].experimental for name in spec.routes)
    truth = spec.evidence.oracle
    if spec.evidence.original:
        truth += f"; the model's original code was run beside it: {spec.evidence.original}"
    return f"`{spec.name}`", variants, _takes(spec), routes, truth, _ran(spec)


def _variant(variant: Variant) -> str:
    remarks = ["refused"] * bool(variant.refused) + ["engines only"] * bool(variant.no_torch)
    return f"{variant.name} ({', '.join(remarks)})" if remarks else variant.name


def _takes(spec: ModelSpec) -> str:
    """How many, and by which inputs."""
    forms = ["encoded", "url", "bytes"] if spec.media.noun == "image" else ["encoded", "bytes"]
    inputs = [f"`{spec.media.noun}_{form}_input`" for form in forms]
    if spec.layout.module in ("fixed_rows", "whole_page"):
        inputs.append("`image_input`")
    return f"{_number(spec)}: {', '.join(inputs)}"


def _number(spec: ModelSpec) -> str:
    most = "n" if spec.max_images is None else str(spec.max_images)
    number = most if spec.image_required and most == "1" else f"{1 if spec.image_required else 0} to {most}"
    return f"{number} {spec.media.noun}{'' if number == '1' else 's' if most == 'n' else '(s)'}"


def _ran(spec: ModelSpec) -> str:
    """The parts of the path that ran; the whole of it with torch, for every model."""
    own = any(ROUTES[name].own_code for name in spec.routes)
    return f"torch: all, on a CPU. TensorRT-LLM: not, {'calls to a stand-in' if own else 'config checked'}"


def main() -> int:
    if sys.argv[1:] == ["--write"]:
        for file, content in current().items():
            file.write_text(content)
        return 0
    stale = [file.name for file, content in current().items() if file.read_text() != content]
    if stale:
        print(f"{', '.join(stale)}: help text or models are not current, run `make goldens`", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
