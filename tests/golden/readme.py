"""The README's copy of `gen-repo --help`.

python -m tests.golden.readme            says whether it is current
python -m tests.golden.readme --write    makes it so
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"(<!-- help -->\n).*?(<!-- /help -->)", re.DOTALL)


def current() -> str:
    """The README with today's help text in its place."""
    environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "generator", "--help"]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return BLOCK.sub(lambda m: f"{m[1]}```\n{text.rstrip()}\n```\n{m[2]}", README.read_text())


def main() -> int:
    if sys.argv[1:] == ["--write"]:
        README.write_text(current())
        return 0
    if README.read_text() != current():
        print("README.md: help text is not current, run `make goldens`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
