"""An encoder of images as one of whole requests: what the vision step does around it, inside the graph."""

from __future__ import annotations

import torch
from torch import nn


class OfRequests(nn.Module):  # type: ignore[misc]
    """`tower` over requests: [B, n, ...] becomes the tables [B, c + n * N, hidden] that the LLM reads.

    The tower takes entries [m, ...] and gives their rows [m, N, hidden], or [m, ..., hidden] of N rows. Each table
    starts with the c constant rows, where there are any.
    """

    def __init__(self, tower: nn.Module, constants: torch.Tensor | None, table_dtype: torch.dtype) -> None:
        """`constants` are [c, hidden]; `table_dtype` is the LLM's."""
        super().__init__()
        self.tower = tower
        self.table_dtype = table_dtype
        self.register_buffer("constants", None if constants is None else constants.to(table_dtype)[None])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.dtype == torch.uint8:
            pixels = pixels.float()  # TensorRT takes no other step with uint8
        batch = pixels.shape[0]
        rows = self.tower(pixels.reshape(-1, *pixels.shape[2:])).to(self.table_dtype)
        table: torch.Tensor = rows.reshape(batch, -1, rows.shape[-1])
        if self.constants is None:
            return table
        return torch.cat([self.constants.repeat(batch, 1, 1), table], dim=1)
