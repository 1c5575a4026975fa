"""An encoder's calls for a few images, recorded as CUDA graphs.

A tower launches hundreds of kernels, one after the other from Python. For a few images the GPU is done with each before
the next arrives; for more, a thread that sends rows takes its turns in Python and keeps the next from arriving. A graph
launches all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

SIZES = range(1, 17)  # images
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
        sizes: Iterable[int] = SIZES,
    ) -> None:
        """Record one graph for each of `sizes`; they share their memory, as only one runs at a time.

        Raises RuntimeError when something in `encode` cannot be recorded, such as a value that the host asks for.
        """
        self._encode = encode
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        largest_first = sorted(sizes, reverse=True)  # the largest takes the memory that the others then find
        self._pixels = torch.zeros((largest_first[0], *shape), dtype=dtype, device=device)
        self._rows = torch.empty_like(encode(self._pixels))
        pool = None
        for size in largest_first:
            aside = torch.cuda.Stream(device)
            aside.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    encode(self._pixels[:size])
            torch.cuda.current_stream(device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                self._rows[:size].copy_(encode(self._pixels[:size]))
            pool = graph.pool()
            self._graphs[size] = graph
        torch.cuda.empty_cache()  # what the calls before took

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Rows in memory of their own. What fills up a recording is left from earlier calls."""
        images = len(pixels)
        size = min((size for size in self._graphs if size >= images), default=None)
        if size is None:
            return self._encode(pixels)
        self._pixels[:images].copy_(pixels)
        self._graphs[size].replay()
        return self._rows[:images].clone()  # the next replay writes there again
