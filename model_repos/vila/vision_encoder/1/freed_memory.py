"""Large blocks of memory that a step frees stay with it.

glibc gives them back to the system, which hands them out again page by page, at a fault each. Triton's Python backend
copies every input tensor into new memory, and for the pixels of a batch of images the faults cost more than the copies.
"""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = 32 << 20  # bytes of a block that is kept: as many as glibc allows
KEPT = 64 << 20  # free bytes at the end of an arena, of which threads have one each


def keep() -> None:
    """From now on, in this process; nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, KEPT)
