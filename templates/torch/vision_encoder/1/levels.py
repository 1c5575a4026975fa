"""Pixels as 8-bit levels, normalised on the encoder's side: a quarter of the bytes to move, and the same values."""

from __future__ import annotations

from typing import Any

import torch
from level_table import level_table
from torch import nn


class FromLevels(nn.Module):  # type: ignore[misc]
    """`tower` over uint8 levels: [n, ..., H, W, 3] becomes the normalised [n, ..., 3, H, W] that it takes.

    The values are looked up, not computed, so they equal those that preprocessing would send, bit for bit.
    """

    def __init__(self, tower: nn.Module, settings: dict[str, Any], dtype: torch.dtype) -> None:
        """`settings` has rescale_factor, mean and std; `dtype` is what the tower takes."""
        super().__init__()
        self.tower = tower
        table = level_table(settings["rescale_factor"], settings["mean"], settings["std"])
        self.register_buffer("table", torch.from_numpy(table).to(dtype).flatten())
        self.register_buffer("channels", 256 * torch.arange(3, dtype=torch.int32))

    def forward(self, levels: torch.Tensor) -> torch.Tensor:
        entries = (
            levels.float().to(torch.int32) + self.channels
        )  # by way of float: TensorRT casts uint8 to nothing else
        pixels = self.table[entries].transpose(-1, -2).transpose(-2, -3)
        rows: torch.Tensor = self.tower(pixels.contiguous())  # in other orders convolutions round otherwise
        return rows
