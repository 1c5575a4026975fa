"""Fuzzing: `python -m tests.fuzz.run [--inputs N] [--workers N] [PATH...]`, also `make fuzz`.

Each path runs in processes of its own, which a crash ends without ending the run. Prints one line per path, writes
the report as JSON with --report, and exits with 1 when an input crashed, or took longer than HANG_SECONDS.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import numbers
from tests.fuzz.scratch import clean

ROOT = Path(__file__).parents[2]
HANG_SECONDS, SLOW_SECONDS = 2.0, 0.1
STUCK_SECONDS = 20
MOST_CRASHES = 20  # of one process, which then gives up
FOLDERS = (
    "templates/shared",
    "templates/preprocessing/1",
    "templates/postprocessing/1",
    "templates/trtllm/vision_encoder/1",
    "tests/doubles",
)


@dataclass
class Report:
    """Of one path: inputs tried, seconds, how each ended, the slowest input, crashes by number."""

    path: str
    inputs: int = 0
    seconds: float = 0.0
    ends: dict[str, int] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, -1)
    crashes: list[tuple[int, str]] = field(default_factory=list)
    grown_mib: int = 0

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        slow, number = self.slowest
        return (
            f"{self.path}: {self.inputs} inputs in {self.seconds:.0f} s, {ends}; {len(self.crashes)} crashes; "
            f"slowest {slow * 1000:.0f} ms (input {number}); memory grew by {self.grown_mib} MiB"
        )

    @property
    def sound(self) -> bool:
        return not self.crashes and self.slowest[0] < HANG_SECONDS


def paths() -> dict[str, Any]:
    for folder in FOLDERS:
        sys.path.insert(0, str(ROOT / folder)) if str(ROOT / folder) not in sys.path else None
    from tests.fuzz import config_paths as config
    from tests.fuzz import serving_paths as serving

    return {
        "image": serving.image,
        "base64": serving.base64_payload,
        "data-uri": serving.data_uri,
        "prompt": serving.prompt,
        "video": serving.video,
        "answer": serving.answer,
        "checkpoint": config.checkpoint,
        "engine": config.engine,
        "tokenizer": config.tokenizer,
        "safetensors": config.safetensors,
        "nemo": config.nemo_archive,
        "check": config.checked,
    }


class Stuck(Exception):
    """An input that did not end by itself."""


def _stuck(number: int, frame: Any) -> None:
    raise Stuck(f"no end after {STUCK_SECONDS} s")


def tried(path: str, first: int, last: int, seconds: float, current: mmap.mmap | None = None) -> Report:
    """Runs inputs `first` to `last` (excluded) of a path in this process, for at most `seconds`."""
    act = paths()[path]
    report, ends = Report(path), Counter[str]()
    act(numbers(path, first))  # what is made once counts for no input
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, _stuck)
    began = time.monotonic()
    for number in range(first, last):
        if current is not None:
            current[:8] = struct.pack("<q", number)
        signal.alarm(STUCK_SECONDS)
        try:
            spent = _seconds(act, path, number, ends)
            if spent > SLOW_SECONDS:  # what was slow because others had the machine is quick the second time
                spent = min(spent, _seconds(act, path, number, Counter()))
            report.slowest = max(report.slowest, (spent, number))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:  # a panic of a native library is no Exception
            ends["crashed"] += 1
            report.crashes.append((number, "".join(traceback.format_exception(problem)[-4:])))
        signal.alarm(0)
        report.inputs += 1
        if len(report.crashes) >= MOST_CRASHES or time.monotonic() - began > seconds:
            break
    report.seconds, report.ends = time.monotonic() - began, dict(ends)
    report.grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) // 1024
    return report


def _seconds(act: Callable[[random.Random], str], path: str, number: int, ends: Counter[str]) -> float:
    """How long an input took; its end is counted in `ends`."""
    start = time.monotonic()
    ends[act(numbers(path, number))] += 1
    return time.monotonic() - start


def _apart(path: str, first: int, last: int, seconds: float) -> Report:
    """`tried` in a process of its own; one that dies is reported with the input that it was at."""
    current = mmap.mmap(-1, 8)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def work() -> None:
        try:
            there.send(tried(path, first, last, seconds, current))
        finally:
            clean()

    process = context.Process(target=work)
    process.start()
    there.close()
    try:
        return here.recv()  # type: ignore[no-any-return]
    except EOFError:
        process.join()
        [number] = struct.unpack("<q", current[:8])
        return Report(path, number - first, ends={"died": 1}, crashes=[(number, f"ended with {process.exitcode}")])
    finally:
        process.join()


def _joined(reports: list[Report]) -> Report:
    whole = Report(reports[0].path)
    ends = Counter[str]()
    for report in reports:
        whole.inputs += report.inputs
        whole.seconds += report.seconds
        ends.update(report.ends)
        whole.slowest = max(whole.slowest, report.slowest)
        whole.crashes += report.crashes
        whole.grown_mib = max(whole.grown_mib, report.grown_mib)
    whole.ends = dict(ends)
    return whole


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("paths", nargs="*", help=f"of {', '.join(paths())} (default: all)")
    parser.add_argument("--inputs", type=int, default=int(os.environ.get("FUZZ_INPUTS", "1000000")), help="per path")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most, per path and worker")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--report", type=Path, metavar="FILE")
    asked = parser.parse_args(argv)
    reports = []
    share = -(-asked.inputs // asked.workers)
    for path in asked.paths or paths():
        parts = [
            (asked.first + begin, asked.first + min(begin + share, asked.inputs))
            for begin in range(0, asked.inputs, share)
        ]
        with ThreadPoolExecutor(asked.workers) as pool:
            report = _joined(list(pool.map(lambda part, path=path: _apart(path, *part, asked.seconds), parts)))
        reports.append(report)
        print(report, flush=True)
        for number, text in report.crashes[:5]:
            print(f"  input {number}: {text}", flush=True)
        if asked.report:
            asked.report.write_text(json.dumps([asdict(done) for done in reports], indent=2) + "\n")
    return 0 if all(report.sound for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
