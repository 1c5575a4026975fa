"""What the benchmarks share: machine facts, medians of interleaved runs, goals, and where results go."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
RESULTS = "results.json"
PLOT = "plot.svg"


@dataclass(frozen=True)
class Goal:
    """`measured` is at least (or, `most`: at most) `wanted`."""

    what: str
    wanted: float
    measured: float
    unit: str = ""
    most: bool = False

    @property
    def reached(self) -> bool:
        return self.measured <= self.wanted if self.most else self.measured >= self.wanted


@dataclass(frozen=True)
class Bars:
    """A plot: one group for each label, in it one bar for each side."""

    title: str
    ylabel: str
    labels: Sequence[str]
    sides: Mapping[str, Sequence[float]]

    def draw(self, axes: Any) -> None:
        width = 0.8 / len(self.sides)
        for number, (side, values) in enumerate(self.sides.items()):
            axes.bar([at + number * width for at in range(len(values))], values, width, label=side)
        middle = 0.4 - width / 2
        axes.set_xticks([at + middle for at in range(len(self.labels))], [narrow(label) for label in self.labels])


@dataclass(frozen=True)
class Lines:
    """A plot on two logarithmic axes: `values` at the sizes `at`."""

    title: str
    ylabel: str
    at: Sequence[float]
    values: Sequence[float]
    label: str

    def draw(self, axes: Any) -> None:
        axes.loglog(self.at, self.values, marker="o", label=self.label)
        axes.set_xticks(self.at, [f"{at:g}" for at in self.at], minor=False)
        axes.minorticks_off()


def arguments(document: str | None, topic: str) -> argparse.ArgumentParser:
    """A parser that has --repetitions and --output, by default the topic's own folder."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, metavar="N", help="of each side, in turn (default: 5)")
    parser.add_argument("--output", type=Path, default=ROOT / topic, metavar="D", help="for results.json and plot.svg")
    return parser


def machine() -> dict[str, Any]:
    """What the figures depend on, and the date."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines() if Path(file).is_file() else []


def interleaved(sides: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, list[Any]]:
    """What each side returned each time; the sides take turns, so that a busy spell of the machine hits all of them."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, run in sides.items():
            found[name].append(run())
    return found


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def finish(
    output: Path,
    facts: Mapping[str, Any],
    result: Mapping[str, Any],
    goals: Sequence[Goal],
    ratio: float,
    *plots: Bars | Lines,
) -> None:
    """Write results.json and plot.svg (with matplotlib), print the goals, and as the last line the ratio.

    `facts` is `machine()` from before the measurement.
    """
    output.mkdir(parents=True, exist_ok=True)
    judged = [{**asdict(goal), "reached": goal.reached} for goal in goals]
    content = {"machine": facts, "goals": judged, "ratio": round(ratio, 3), "result": result}
    (output / RESULTS).write_text(json.dumps(content, indent=1) + "\n")
    if plots and not _draw(plots, output / PLOT, facts):
        print("no plot: matplotlib is not installed (pip install 'gen-repo[bench]')")
    for goal in goals:
        sign = "at most" if goal.most else "at least"
        verdict = "reached" if goal.reached else "MISSED"
        print(f"{goal.what}: {goal.measured:.3g} {goal.unit} (goal: {sign} {goal.wanted:g}): {verdict}")
    print(f"ratio: {ratio:.2f}")


def narrow(label: str) -> str:
    """Label over several lines, which keeps neighbours apart."""
    return label.replace("_", " ").replace("processing", " processing").strip().replace(" ", "\n")


def _draw(plots: Sequence[Bars | Lines], file: Path, facts: Mapping[str, Any]) -> bool:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return False
    with rc_context({"svg.hashsalt": "gen-repo"}):
        figure = Figure(figsize=(5 * len(plots), 4), layout="constrained")
        for axes, plot in zip(figure.subplots(1, len(plots), squeeze=False)[0], plots, strict=True):
            plot.draw(axes)
            axes.set(title=plot.title, ylabel=plot.ylabel)
            axes.legend()
        figure.supxlabel(f"{facts['processor']}, {facts['cores']} cores, {facts['date']}", fontsize="small")
        figure.savefig(file, metadata={"Date": None})
    return True
