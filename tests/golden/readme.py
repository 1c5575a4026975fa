"""The README's copy of `gen-repo --help`, and its table of models, which comes from the specs.

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

README = Path(__file__).resolve().parents[2] / "README.md"


def current() -> str:
    """The README with today's help text and models in their places."""
    readme = README.read_text()
    for name, text in {"help": f"```\n{help_text().rstrip()}\n```", "models": model_table()}.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        readme, found = block.subn(lambda m, text=text: f"{m[1]}{text}\n{m[2]}", readme)
        if found != 1:
            raise ValueError(f"README.md has {found} blocks {name}")
    return readme


def help_text() -> str:
    environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "generator", "--help"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def model_table() -> str:
    """One line per model."""
    head = ("model", "variants", "takes", "LLM routes", "truth", "ran here")
    rows = [head, ("---",) * len(head), *(_row(spec) for spec in specs().values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


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
    most = "n" if spec.max_images is None else str(spec.max_images)
    number = most if spec.image_required and most == "1" else f"{1 if spec.image_required else 0} to {most}"
    forms = ["encoded", "url", "bytes"] if spec.media.noun == "image" else ["encoded", "bytes"]
    inputs = [f"`{spec.media.noun}_{form}_input`" for form in forms]
    if spec.layout.module in ("fixed_rows", "whole_page"):
        inputs.append("`image_input`")
    return f"{number} {spec.media.noun}(s): {', '.join(inputs)}"


def _ran(spec: ModelSpec) -> str:
    """The parts of the path that ran; the whole of it with torch, for every model."""
    own = any(ROUTES[name].own_code for name in spec.routes)
    return f"torch: all, on a CPU. TensorRT-LLM: not, {'calls to a stand-in' if own else 'config checked'}"


def main() -> int:
    if sys.argv[1:] == ["--write"]:
        README.write_text(current())
        return 0
    if README.read_text() != current():
        print("README.md: help text or models are not current, run `make goldens`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
