"""What a server holds: memory, threads, files and shared memory of the server and of each Python step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from generator.processes import Step

PROC, SHM = Path("/proc"), Path("/dev/shm")


@dataclass(frozen=True)
class Usage:
    """Of one process. `pss_kb` counts a page that n processes share as 1/n of a page."""

    pss_kb: int
    threads: int
    files: int


@dataclass(frozen=True)
class Reading:
    """At one moment: `done` requests so far, the processes by name, and bytes of the server's regions in /dev/shm."""

    done: int
    seconds: float
    processes: dict[str, Usage]
    shm_bytes: int

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def names(steps: Mapping[int, Step]) -> dict[str, int]:
    """Process ids by the step's name; further instances of one step are numbered."""
    found: dict[str, int] = {}
    for pid, step in sorted(steps.items()):
        taken = sum(name.split(" ")[0] == step.model for name in found)
        found[f"{step.model} {taken + 1}" if taken else step.model] = pid
    return found


def read(pids: Mapping[str, int], shm_prefix: str, done: int, seconds: float) -> Reading:
    """Raises OSError when a process is gone."""
    usages = {name: usage(pid) for name, pid in pids.items()}
    shm = sum(path.stat().st_blocks * 512 for path in SHM.glob(f"{shm_prefix}*"))
    return Reading(done, round(seconds, 1), usages, shm)


def usage(pid: int) -> Usage:
    folder = PROC / str(pid)
    [pss] = re.findall(r"^Pss:\s+(\d+) kB", (folder / "smaps_rollup").read_text(), re.MULTILINE)
    [threads] = re.findall(r"^Threads:\s+(\d+)", (folder / "status").read_text(), re.MULTILINE)
    return Usage(int(pss), int(threads), len(list((folder / "fd").iterdir())))


def growth(before: Reading, after: Reading) -> dict[str, dict[str, float]]:
    """Per 10 000 requests between two readings of an idle server: KiB, threads and files of each process."""
    per = 10_000 / max(1, after.done - before.done)
    grown = {
        name: {
            what: round(per * (getattr(after.processes[name], what) - getattr(own, what)), 2)
            for what in ("pss_kb", "threads", "files")
        }
        for name, own in before.processes.items()
        if name in after.processes
    }
    grown["/dev/shm"] = {"kb": round(per * (after.shm_bytes - before.shm_bytes) / 1024, 2)}
    return grown
