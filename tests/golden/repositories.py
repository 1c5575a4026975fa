"""The checked-in repositories below model_repos/: made without a checkpoint, compared as exact trees.

python -m tests.golden.repositories --write      makes them again (make goldens)
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from generator.findings import has_errors
from generator.generate import decide, files
from generator.models import specs
from generator.options import Options
from generator.write import write

ROOT = Path(__file__).resolve().parents[2] / "model_repos"
NOWHERE = Path("/nonexistent")  # the guide's default folders do not exist here, so everything comes from the spec


def expected() -> dict[str, dict[str, bytes]]:
    """Every golden repository's files, by model."""
    made = {}
    for name in specs():
        options = Options(model=name, working_dir=NOWHERE)
        plan, _, findings = decide(options)
        assert not has_errors(findings), findings
        made[name] = files(plan, options)
    return made


def main() -> int:
    if sys.argv[1:] != ["--write"]:
        print(__doc__)
        return 2
    for name, content in expected().items():
        shutil.rmtree(ROOT / name, ignore_errors=True)
        write(ROOT / name, content, force=True)
        print(ROOT / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
