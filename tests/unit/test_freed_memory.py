"""A step that frees large blocks gets them again without a fault for each page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SHARED = Path(__file__).parents[2] / "templates" / "shared"
PAGES = 16 * 700_000 // 4096  # of sixteen images
FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
    import freed_memory
    freed_memory.keep()
def call():
    images = [np.ones(700_000, dtype=np.uint8) for _ in range(16)]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    call()
before = faults()
for _ in range(10):
    call()
print((faults() - before) // 10)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, env={"PYTHONPATH": str(SHARED)}, capture_output=True, check=True).stdout)


def test_pages_are_faulted_in_once() -> None:
    assert faults("keep") < PAGES // 20 < PAGES // 2 < faults("plain")
