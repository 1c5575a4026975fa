"""The folder that a fuzzing process works in: in memory where there is one, and gone when the process is done."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

MEMORY = Path("/dev/shm")


@cache
def scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz_", dir=MEMORY if MEMORY.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def clean() -> None:
    """For forked processes, which leave without what is registered for the exit."""
    shutil.rmtree(scratch(), ignore_errors=True)
