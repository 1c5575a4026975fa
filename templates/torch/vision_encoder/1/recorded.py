"""An encoder's calls for a few images, recorded as CUDA graphs.

A tower launches hundreds of kernels, one after the other from Python; for a few images the GPU is done with each before
the next arrives. A graph launches all of them at once. From some batch on the GPU is the slower one, and nothing is to
be won.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

SIZES = (1, 2, 4, 8)  # images; as many as a recording holds, or the next larger one, are replayed
WARM_UP = 3  # calls before recording: libraries choose kernels and take their workspaces in the first ones

Encode = Callable[[torch.Tensor], torch.Tensor]
"""Pixels [n, ...] on the GPU -> rows [n, N, hidden] there."""


class Recorded:
    """Like `encode`, for pixels of one shape; a call with more images than the largest of `sizes` is passed on."""

    def __init__(
        self,
        encode: Encode,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        sizes: Sequence[int] = SIZES,
    ) -> None:
        """Record one graph for each of `sizes`; they share their memory, as only one runs at a time.

        Raises RuntimeError when something in `encode` cannot be recorded, such as a value that the host asks for.
        """
        self._encode = encode
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pixels = torch.zeros((max(sizes), *shape), dtype=dtype, device=device)
        pool = None
        for size in sorted(sizes, reverse=True):  # the largest takes the memory that the others then find
            pixels = self._pixels[:size]
            aside = torch.cuda.Stream(device)
            aside.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    encode(pixels)
            torch.cuda.current_stream(device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                rows = encode(pixels)
            pool = graph.pool()
            self._graphs[size] = (graph, rows)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Rows in memory of their own. What fills up a recording is left from earlier calls."""
        images = len(pixels)
        size = min((size for size in self._graphs if size >= images), default=None)
        if size is None:
            return self._encode(pixels)
        graph, rows = self._graphs[size]
        self._pixels[:images].copy_(pixels)
        graph.replay()
        return rows[:images].clone()  # the next replay writes there again
