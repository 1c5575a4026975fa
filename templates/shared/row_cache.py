"""Rows that the encoder gave before, kept for the next time that the same pixels come.

They stay on the encoder's device, within a number of bytes, the least recently used forgotten first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from metrics import Metrics

COUNTERS = {
    "vision_cache_hits_total": "Entries of pixel_values whose rows were kept",
    "vision_cache_misses_total": "Entries of pixel_values that were encoded",
}
GAUGES = {"vision_cache_bytes": "Bytes of the rows that are kept"}

Encode = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
"""Groups of entries [n, ...], at least one -> the rows of each."""


class RowCache:
    def __init__(self, settings: dict[str, Any], model: str, device: torch.device) -> None:
        """`settings` name the `bytes`, and those that the rows of one entry take; `model` is Triton's name of the step.

        All that memory of a GPU is taken now, in pieces as the rows will want them, and torch keeps it when they are
        freed: later the language model's cache has taken what there was. Torch keeps memory for each stream on its own,
        so make the cache on the one that the rows come from.
        """
        self._max_bytes: int = settings["bytes"]
        self._bytes = 0
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        if device.type == "cuda":
            size: int = settings["entry_bytes"]
            pieces = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(self._max_bytes // size)]
            del pieces
        self._metrics = Metrics(model, COUNTERS, GAUGES)
        for name in (*COUNTERS, *GAUGES):
            self._metrics.add(name, 0)
        self._metrics.flush()

    def rows(self, groups: Sequence[torch.Tensor], encode: Encode) -> list[torch.Tensor]:
        """The rows of each group. `encode` is called once, with those that are not kept, each of them once.

        What it raises is passed on, and nothing of its call is kept. The rows must not be written to.
        """
        keys = [key_of(group) for group in groups]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        missing = {key: group for key, group in zip(keys, groups, strict=True) if key not in found}
        encoded = dict(zip(missing, encode(list(missing.values())), strict=True)) if missing else {}
        for key in found:
            self._kept.move_to_end(key)
        before = self._bytes
        for key, rows in encoded.items():
            self._keep(key, rows)
        misses = sum(len(group) for group in missing.values())
        self._metrics.add("vision_cache_misses_total", misses)
        self._metrics.add("vision_cache_hits_total", sum(len(group) for group in groups) - misses)
        self._metrics.add("vision_cache_bytes", self._bytes - before)
        self._metrics.flush()
        return [found[key] if key in found else encoded[key] for key in keys]

    def _keep(self, key: bytes, rows: torch.Tensor) -> None:
        if rows.nbytes > self._max_bytes:
            return
        while self._bytes + rows.nbytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
        try:
            self._kept[key] = rows.clone()  # of its own: a view would keep the rows of the whole call
        except torch.cuda.OutOfMemoryError:  # others took the memory: from now on this is how much there is
            self._max_bytes = max(self._bytes, rows.nbytes)
            return
        self._bytes += rows.nbytes


def key_of(entries: torch.Tensor) -> bytes:
    """A SHA-256 of the shape, type and bytes of `entries`: nobody can make other pixels that have it."""
    digest = hashlib.sha256(f"{tuple(entries.shape)} {entries.dtype}".encode())
    digest.update(entries.contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.digest()
