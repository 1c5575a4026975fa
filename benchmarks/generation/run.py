"""How long gen-repo takes: all models' repositories in one process, `--help`, and importing its command line.

    python -m benchmarks.generation.run

Each in a fresh interpreter; a bare interpreter's own start is measured beside them. Nothing is read but the specs, as
for the checked-in repositories.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import Bars, Goal, arguments, finish, interleaved, machine, median, seconds
from generator.models import specs

ALL = """
import sys, contextlib, io
from generator.cli import main
for model in sys.argv[2:]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if main(["--model", model, "--output", f"{sys.argv[1]}/{model}"]):
            sys.exit(f"{model} was not generated")
"""
HELP_GOAL, ALL_GOAL = 0.150, 2.0  # seconds


def python(*words: str) -> None:
    subprocess.run([sys.executable, *words], cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, check=True)


def generate_all() -> float:
    """Seconds for every model's repository, from starting the interpreter to its end."""
    with tempfile.TemporaryDirectory() as folder:
        return seconds(lambda: python("-c", ALL, folder, *specs()))


def main() -> None:
    chosen = arguments(__doc__, "generation").parse_args()
    facts = machine()
    sides = {
        f"all {len(specs())} repositories": generate_all,
        "gen-repo --help": lambda: seconds(lambda: python("-m", "generator", "--help")),
        "import": lambda: seconds(lambda: python("-c", "import generator.cli")),
        "bare interpreter": lambda: seconds(lambda: python("-c", "pass")),
    }
    for run in sides.values():
        run()  # byte code and the file cache
    times = interleaved(sides, chosen.repetitions)
    medians = {name: median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:24} {1e3 * value:8.0f} ms")
    whole, usage = (1e3 * value for value in list(medians.values())[:2])
    goals = [
        Goal("thirteen repositories", 1e3 * ALL_GOAL, whole, "ms", most=True),
        Goal("--help", 1e3 * HELP_GOAL, usage, "ms", most=True),
    ]
    plot = Bars("gen-repo", "ms", list(medians), {"median": [1e3 * value for value in medians.values()]})
    finish(chosen.output, facts, {"seconds": times, "medians": medians}, goals, 1e3 * ALL_GOAL / whole, plot)


if __name__ == "__main__":
    main()
