"""The goals of all benchmarks and whether they were reached, from the checked-in results.

python -m benchmarks.table            prints the table
python -m benchmarks.table --write    writes it into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT

PAGE = ROOT.parent / "docs" / "benchmarks.md"
BLOCK = re.compile(r"(<!-- goals -->\n).*?(<!-- /goals -->)", re.DOTALL)


def table() -> str:
    """One line for each goal of each benchmark that has results."""
    lines = ["| benchmark | goal | measured | reached | machine, date |", "|---|---|---|---|---|"]
    for file in sorted(ROOT.glob(f"*/{RESULTS}")):
        content = json.loads(file.read_text())
        if "goals" in content:
            lines += [_row(file.parent, goal, content["machine"]) for goal in content["goals"]]
    return "\n".join(lines)


def _row(folder: Path, goal: dict[str, Any], machine: dict[str, Any]) -> str:
    sign = "≤" if goal["most"] else "≥"
    where = f"{machine.get('gpu', machine['processor'])}, {machine['cores']} cores, {machine['date']}"
    name = f"[{folder.name}](../benchmarks/{folder.name}/README.md)"
    unit = f" {goal['unit']}".rstrip()
    wanted, measured = f"{sign} {goal['wanted']:g}{unit}", f"{goal['measured']:.3g}{unit}"
    return f"| {name} | {goal['what']} {wanted} | {measured} | {'yes' if goal['reached'] else '**no**'} | {where} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if not parser.parse_args().write:
        print(table())
        return
    page, found = BLOCK.subn(lambda match: f"{match[1]}{table()}\n{match[2]}", PAGE.read_text())
    if found != 1:
        raise SystemExit(f"{PAGE} has {found} blocks of goals")
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
