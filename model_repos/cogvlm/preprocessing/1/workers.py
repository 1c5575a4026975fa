"""A few threads of this process. Pillow, zlib and numpy let go of the interpreter while they work, so that decoding and
resizing use as many cores as the container has."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 8  # of one process: a picture is cut into no more parts
CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processor time, or "max", per so many microseconds
CGROUP_V1 = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))


def cores() -> int:
    """How many cores this process may use: those that it is bound to, within the container's quota."""
    return max(1, min(len(os.sched_getaffinity(0)), MOST, _quota()))


def _quota() -> int:
    """Whole cores' worth of processor time that the container may use; MOST where it is not limited."""
    try:
        if CGROUP_V2.is_file():
            quota, period = CGROUP_V2.read_text().split()
        else:
            quota, period = (path.read_text().strip() for path in CGROUP_V1)
        return math.ceil(int(quota) / int(period)) if quota not in ("max", "-1") else MOST
    except (OSError, ValueError):
        return MOST


class Workers:
    """`count` threads. Work that they do must not hand them more."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count) if count > 1 else None

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """What `work` gives for each item, in order. Raises what it raised for the first item that failed."""
        entries = list(items)
        if self._pool is None or len(entries) < 2:
            return [work(item) for item in entries]
        return list(self._pool.map(work, entries))


WORKERS = Workers(cores())
