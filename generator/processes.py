"""The Python steps of a running Triton, each a process of its own, and how those ended that are gone.

Triton (2.51 was tried) does not start a Python step again that has ended: each request that needs it fails, and the
server and the model keep saying that they are ready. What it leaves is a child that nobody has waited for.
"""

from __future__ import annotations

import contextlib
import re
import signal
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
STUB = "triton_python_b"  # triton_python_backend_stub, as the kernel cuts it
GONE = "gone"  # no longer a child of the server: it waited for the step, which Triton does not, or it ends itself
EXIT_CODE = 49  # of the fields of /proc/PID/stat behind the command's name: see proc(5)


@dataclass(frozen=True)
class Step:
    """One process of a Python step; `how` says how it ended, and is empty while it runs."""

    pid: int
    model: str
    how: str = ""


def steps(server: int) -> dict[int, Step]:
    """The children of process `server` that run Python steps, by process id; the model of one that has ended is ''."""
    found = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (folder / "stat").read_text(errors="replace").partition("(")[2].rpartition(") ")
            fields = rest.split()
            if name == STUB and int(fields[1]) == server:
                how = _how(int(fields[EXIT_CODE])) if fields[0] in "ZX" else ""
                model = re.search(r"/([^/\0]+)/\d+/model\.py", (folder / "cmdline").read_text(errors="replace"))
                found[int(folder.name)] = Step(int(folder.name), model[1] if model else "", how)
    return found


def ended(server: int, before: dict[int, Step]) -> list[Step]:
    """Those of the steps `before` that run no more, by their models' names."""
    now = steps(server)
    return [
        Step(pid, step.model, now[pid].how if pid in now else GONE)
        for pid, step in before.items()
        if pid not in now or now[pid].how
    ]


def _how(status: int) -> str:
    """From a status as wait() gives it."""
    number = status & 0x7F
    if not number:
        return f"code {status >> 8}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
