"""From starting tritonserver to READY, and the memory of pre- and postprocessing: ours, and the usual way.

    python -m benchmarks.startup.run

Memory is the proportional set size of all processes that the server has started for its Python steps, once they have
answered a request. The server's own start, with a repository that is empty, is measured beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient

from benchmarks import peers
from benchmarks.common import Bars, Goal, arguments, finish, interleaved, machine, median
from benchmarks.load import Request, tensors
from benchmarks.preprocessing_step.run import requests
from generator import server

STEPS = ("preprocessing", "postprocessing")
PREFIX = {"ours": "", "usual": "usual_"}
READY_GOAL, MEMORY_GOAL = 10.0, 6.0


@dataclass(frozen=True)
class Started:
    """Seconds to READY, and MiB of the Python steps."""

    ready_s: float
    pss_mib: float


def start(repository: Path, asked: Mapping[str, Request]) -> Started:
    """Start a server, ask each model of `asked` once, weigh it, stop it."""
    begin = time.perf_counter()
    with server.running(repository) as running:
        ready = time.perf_counter() - begin
        with InferenceServerClient(running.grpc) as client:
            for model, request in asked.items():
                client.infer(model, tensors(request))
        return Started(ready, steps_memory(running.process.pid))


def steps_memory(group: int) -> float:
    """MiB (PSS) of the processes in the server's group, without the server itself."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == group and int(folder.name) != group:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def main() -> None:
    chosen: argparse.Namespace = arguments(__doc__, "startup").parse_args()
    facts = machine()
    answer = {"output_ids": np.array([[[5, 6, 7, 8]]], np.int32), "sequence_length": np.array([[4]], np.int32)}
    asked = {"preprocessing": requests((640, 480), 16)[0], "postprocessing": answer}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        whole = peers.ours(folder / "whole")
        peers.our_steps(whole, folder / "ours", STEPS)
        peers.usual_steps(whole, folder / "usual", STEPS)
        (folder / "empty").mkdir()
        sides = {
            side: partial(start, folder / side, {prefix + step: request for step, request in asked.items()})
            for side, prefix in PREFIX.items()
        } | {"empty": partial(start, folder / "empty", {})}
        for run in sides.values():
            run()  # the file cache
        found = interleaved(sides, chosen.repetitions)
    ready = {side: median([one.ready_s for one in starts]) for side, starts in found.items()}
    memory = {side: median([one.pss_mib for one in starts]) for side, starts in found.items()}
    for side in found:
        print(f"{side:8} ready after {ready[side]:6.2f} s, steps {memory[side]:7.1f} MiB")
    sooner, lighter = ready["usual"] / ready["ours"], memory["usual"] / memory["ours"]
    goals = [Goal("READY sooner", READY_GOAL, sooner, "x"), Goal("less memory", MEMORY_GOAL, lighter, "x")]
    labels = list(found)
    plots = (
        Bars("start to READY", "s", labels, {"median": list(ready.values())}),
        Bars("memory of the steps", "MiB (PSS)", labels, {"median": list(memory.values())}),
    )
    result = {"repetitions": chosen.repetitions, "ready_s": ready, "pss_mib": memory}
    finish(chosen.output, facts, result, goals, sooner, *plots)


if __name__ == "__main__":
    main()
